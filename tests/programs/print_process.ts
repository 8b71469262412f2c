/**
 * Prints its own process as a line of JSON; then echoes a line of its standard input, and ends with the code that it names.
 *
 * @module
 */

const self = (name: string) => Deno.readTextFileSync(`/proc/self/${name}`);

/** The descriptors that a program which this one executes would have, and what they are; numbers of pipes differ. */
function inherited(): string[] {
  return Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => Number(name))
    .sort((a, b) => a - b)
    .flatMap((raw) => {
      try {
        const flags = /^flags:\s*(\d+)/m.exec(self(`fdinfo/${raw}`))![1];
        const target = Deno.readLinkSync(`/proc/self/fd/${raw}`).replace(/\d+/, "");
        // O_CLOEXEC of asm-generic/fcntl.h.
        return parseInt(flags, 8) & 0o2000000 ? [] : [`${raw} ${target} ${flags}`];
      } catch {
        // The descriptor of the directory.
        return [];
      }
    });
}

const { preloaded } = globalThis as { preloaded?: string };
console.log(JSON.stringify({
  pid: Deno.pid,
  isMain: import.meta.main,
  args: Deno.args,
  command: self("cmdline").split("\0"),
  // Bytes, a character each: they may be no UTF-8.
  environment: Array.from(
    Deno.readFileSync("/proc/self/environ"),
    (byte) => String.fromCharCode(byte),
  ).join("").split("\0"),
  signals: self("status").match(/^(Name|SigBlk|SigIgn|SigCgt|NoNewPrivs):.*/gm),
  limits: self("limits"),
  inherited: inherited(),
  preloaded,
  isGeneration: Symbol.for("graceful") in globalThis,
}));

const buffer = new Uint8Array(100);
const length = Deno.stdin.readSync(buffer) ?? 0;
const line = new TextDecoder().decode(buffer.subarray(0, length)).trim();
console.log(`read: ${line}`);
Deno.exit(Number(line));
