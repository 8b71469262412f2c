/**
 * Builds the programs in Go: with the library `graceful`, or, where that cannot be downloaded, with a
 * stand-in for it that needs only Go's standard library (`go/backend/plain.go`).
 *
 * @module
 */

const library = "github.com/gobwas/graceful";

/** The command that builds programs, and the directory that they are built in. */
interface Toolchain {
  go: string;
  directory: string;
}

const toolchain = await findToolchain();

/**
 * Builds the peer. Returns undefined, and prints the reason, if Go is not installed.
 */
export async function buildPeer(): Promise<{ path: string; hasLibrary: boolean } | undefined> {
  if (!toolchain) {
    console.log("The tests with Go are skipped: go is not installed");
    return undefined;
  }
  const { go, directory } = toolchain;
  const path = `${directory}/peer`;
  const missing = await whyMissing(go, "go/");
  if (missing === undefined) {
    await run(go, "go/", ["build", "-o", path, "./peer"], {});
    return { path, hasLibrary: true };
  }
  console.log(
    `${library} cannot be downloaded (${missing}): the tests with Go run against Go's own net, ` +
      `syscall and encoding/gob instead`,
  );
  const offline = { GOPROXY: "off", GOWORK: "off" };
  await run(go, "go/", ["build", "-tags", "plain", "-o", path, "./peer"], offline);
  return { path, hasLibrary: false };
}

/**
 * The environment variables with which the example `examples/from_go` builds its program in Go; undefined
 * if Go is not installed.
 */
export async function exampleEnvironment(): Promise<Record<string, string> | undefined> {
  if (!toolchain) return undefined;
  const { go, directory } = toolchain;
  const PATH = `${Deno.env.get("PATH")}:${go.slice(0, go.lastIndexOf("/"))}`;
  const example = "../../examples/from_go/";
  if (await whyMissing(go, example) === undefined) return { PATH };
  return { PATH, GOPROXY: "off", GOWORK: workspaceWithStandIn(directory, example) };
}

/** Finds Go, and makes a directory that is removed when this process ends. */
async function findToolchain(): Promise<Toolchain | undefined> {
  const go = await findGo();
  if (!go) return undefined;
  const directory = Deno.makeTempDirSync({ prefix: "graceful-" });
  addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));
  return { go, directory };
}

async function findGo(): Promise<string | undefined> {
  const folders = `${Deno.env.get("PATH")}:/usr/local/go/bin`.split(":");
  for (const go of folders.map((folder) => `${folder}/go`)) {
    try {
      if ((await new Deno.Command(go, { args: ["version"] }).output()).success) return go;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

/** Downloads the library unless it is there; returns the reason if `module` cannot have it. */
async function whyMissing(go: string, module: string): Promise<string | undefined> {
  // No answer from the module proxy counts as a refusal.
  const signal = AbortSignal.timeout(60_000);
  const { success, stderr } = await runGo(go, module, ["list", "-deps", "./..."], {}, signal);
  if (success) return undefined;
  if (signal.aborted) return "no answer within a minute";
  // Indented lines are the text of the proxy's answer.
  const lines = new TextDecoder().decode(stderr).split("\n").filter((line) => /^\S/.test(line));
  return lines.at(-1)?.split(": ").at(-1) ?? "no reason given";
}

/** Makes a workspace in which the stand-in has the library's name; returns the path of its go.work. */
function workspaceWithStandIn(directory: string, module: string): string {
  const plain = Deno.readTextFileSync(new URL("go/backend/plain.go", import.meta.url))
    .replace("//go:build plain\n", "")
    .replace("\npackage backend\n", "\npackage graceful\n");
  Deno.mkdirSync(`${directory}/graceful`);
  Deno.writeTextFileSync(`${directory}/graceful/graceful.go`, plain);
  Deno.writeTextFileSync(`${directory}/graceful/go.mod`, `module ${library}\n\ngo 1.21\n`);
  const path = decodeURIComponent(new URL(module, import.meta.url).pathname).replace(/\/$/, "");
  const work = `${directory}/go.work`;
  Deno.writeTextFileSync(work, `go 1.21\n\nuse (\n\t"./graceful"\n\t${JSON.stringify(path)}\n)\n`);
  return work;
}

async function run(
  go: string,
  module: string,
  args: string[],
  env: Record<string, string>,
): Promise<void> {
  const { success, stderr } = await runGo(go, module, args, env);
  if (!success) throw new Error(`go ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}

/** Runs `go` in a module; downloads no other toolchain. */
function runGo(
  go: string,
  module: string,
  args: string[],
  env: Record<string, string>,
  signal?: AbortSignal,
): Promise<Deno.CommandOutput> {
  return new Deno.Command(go, {
    args,
    cwd: new URL(module, import.meta.url),
    env: { GOTOOLCHAIN: "local", GIT_TERMINAL_PROMPT: "0", ...env },
    signal,
  }).output();
}
