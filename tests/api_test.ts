import { assert, assertEquals, assertInstanceOf, assertStrictEquals } from "@std/assert";
import * as graceful from "../mod.ts";
import { test } from "./support/guard.ts";

type Kind = "function" | "class";

/** The seed's own API, in the words of this library. */
const promised: Record<string, Kind> = {
  // Receive, ReceiveFrom, ReceiveAllFrom, Client
  receive: "function",
  receiveFrom: "function",
  receiveAllFrom: "function",
  Client: "class",
  // Serve, ListenAndServe, Server
  serve: "function",
  listenAndServe: "function",
  Server: "class",
  // Handler and its makers
  sequenceHandler: "function",
  callbackHandler: "function",
  listenerHandler: "function",
  connHandler: "function",
  packetConnHandler: "function",
  fileHandler: "function",
  fdHandler: "function",
  ResponseWriter: "class",
  // SendListener, ... and Send, SendTo, ...
  sendListener: "function",
  sendConn: "function",
  sendPacketConn: "function",
  sendFile: "function",
  send: "function",
  sendTo: "function",
  sendListenerTo: "function",
  sendConnTo: "function",
  sendFileTo: "function",
  sendPacketConnTo: "function",
  // Meta, MetaFrom
  Meta: "class",
  // FdListener, FdConn, FdPacketConn, os.NewFile; and what Go has in net/http
  Fd: "class",
  fdListener: "function",
  fdConn: "function",
  fdPacketConn: "function",
  fdFile: "function",
  serveHttp: "function",
  drain: "function",
  // net.Listen("unix"), net.Dial
  listen: "function",
  connect: "function",
  UnixListener: "class",
  UnixConn: "class",
  // Generations
  start: "function",
  Generation: "class",
  TestService: "class",
  // The service manager: github.com/coreos/go-systemd has `activation.Files` and `daemon.SdNotify`
  listenFds: "function",
  notify: "function",
};

/** Methods and properties of the classes, as the same table has them. */
const members: Record<string, string[]> = {
  Client: ["receive", "receiveFrom", "receiveAllFrom"],
  Server: ["ref", "unref", "shutdown"],
  ResponseWriter: ["write", "flush", "debug", "info", "error"],
  Meta: ["encode", "get", "set", "toJSON"],
  Fd: ["raw", "take", "dup", "close", "owned"],
  UnixListener: ["accept", "close", "ref", "unref", "keepPath"],
  UnixConn: ["read", "readFull", "write", "closeWrite", "close", "peer"],
  TestService: ["next"],
  Generation: [
    "serve",
    "listen",
    "listenTls",
    "listenDatagram",
    "open",
    "keep",
    "take",
    "move",
    "arrivals",
    "upgradeWebSocket",
    "draining",
    "ready",
    "restart",
    "stop",
    "status",
    "health",
  ],
};

/** What needs a word for types alone. */
const types = [
  "Handler",
  "HandlerFunction",
  "ReceiveCallback",
  "Received",
  "ReceiveOptions",
  "ServerOptions",
  "SendOptions",
  "Logger",
  "MetaLike",
  "MetaValue",
  "ListenerLike",
  "ConnLike",
  "PacketConnLike",
  "FileLike",
  "ListenOptions",
  "WaitOptions",
  "ServeHttpOptions",
  "HttpHandler",
  "DrainOptions",
  "TlsOptions",
  "NodeServer",
  "NodeSocket",
  "UnixAddress",
  "Credentials",
  "ConnectOptions",
  "PeerCheck",
  "ShutdownOptions",
  "StartOptions",
  "ServeOptions",
  "ServeTcpOptions",
  "ServeUnixOptions",
  "Restarted",
  "HandoverErrorCode",
  "GenerationStatus",
  "SocketStatus",
  "Command",
  "Arrival",
  "Keepable",
  "ListenAddress",
  "TcpListenAddress",
  "UnixListenAddress",
  "Main",
];

/** The errors, with what their `code` is. */
const errors: Record<string, string> = {
  ControlTruncatedError: "ERR_CONTROL_TRUNCATED",
  EmptyControlMessageError: "ERR_EMPTY_CONTROL_MESSAGE",
  GobError: "ERR_GOB",
  LongReadError: "ERR_LONG_READ",
  LongWriteError: "ERR_LONG_WRITE",
  NoDescriptorError: "ERR_NO_DESCRIPTOR",
  NotUnixConnError: "ERR_NOT_UNIX_CONN",
  NotUnixListenerError: "ERR_NOT_UNIX_LISTENER",
  PeerNotAllowedError: "ERR_PEER_NOT_ALLOWED",
  SurplusDescriptorsError: "ERR_SURPLUS_DESCRIPTORS",
  UnexpectedEofError: "ERR_UNEXPECTED_EOF",
  UnsupportedRuntimeError: "ERR_UNSUPPORTED_RUNTIME",
  WrongDescriptorError: "ERR_WRONG_DESCRIPTOR",
};

/** Those whose `code` says which case it is. */
const withCodes = ["GracefulError", "HandoverError"];

const exported = graceful as unknown as Record<string, unknown>;

for (const [name, kind] of Object.entries(promised)) {
  test(`${name} is an exported ${kind}`, () => {
    assertEquals(kindOf(exported[name]), kind);
    assertEquals((exported[name] as { name: string }).name, name);
    const { prototype } = exported[name] as { prototype?: object };
    for (const member of members[name] ?? []) {
      assert(member in prototype!, `${name} has no ${member}`);
    }
  });
}

test("Meta.from() reads a meta that arrived", () => {
  assertEquals(kindOf(graceful.Meta.from), "function");
});

test("mod.ts exports the promised names, the errors, and nothing else", () => {
  assertEquals(
    Object.keys(exported).sort(),
    [...Object.keys(promised), ...Object.keys(errors), ...withCodes].sort(),
  );
});

for (const [name, code] of Object.entries(errors)) {
  test(`${name} has its name, its code, its prototype and its cause`, () => {
    const Class = exported[name] as new (m: string, o?: ErrorOptions) => graceful.GracefulError;
    const cause = new Error("below");
    const error = new Class("what was attempted", { cause });
    assertInstanceOf(error, Class);
    assertInstanceOf(error, graceful.GracefulError);
    assertInstanceOf(error, Error);
    assertEquals([error.name, error.code, error.message], [name, code, "what was attempted"]);
    assertStrictEquals(error.cause, cause);
    assertEquals(String(error), `${name}: what was attempted`);
    assert(error.stack!.startsWith(`${name}: `) || error.stack!.startsWith("Error: "));
    assertEquals("cause" in new Class("alone"), false);
  });
}

for (const name of withCodes) {
  test(`${name} has a name, the code it is given, and a cause`, () => {
    const cause = new Error("below");
    const Class = exported[name] as typeof graceful.GracefulError;
    const error = new Class("attempted", "ERR_TEST", { cause });
    assertInstanceOf(error, Error);
    assertInstanceOf(error, graceful.GracefulError);
    assertEquals([error.name, error.code, error.message], [name, "ERR_TEST", "attempted"]);
    assertStrictEquals(error.cause, cause);
  });
}

test("every export is documented, and every function and class has an example", async () => {
  const symbols = await documented();
  const names = Object.keys(symbols);
  assertEquals(names.filter((name) => name in exported).sort(), Object.keys(exported).sort());
  assertEquals(types.filter((name) => !names.includes(name)), []);

  const undocumented = names.filter((name) => !symbols[name].some(({ doc }) => /\w\W*$/.test(doc)));
  assertEquals(undocumented, [], "without a sentence");
  const withoutExample = names.filter((name) =>
    symbols[name].some(({ kind }) => kind === "function" || kind === "class") &&
    !(name in errors) && name !== "HandoverError" &&
    !symbols[name].some(({ doc }) => doc.includes("\n```ts\n"))
  );
  assertEquals(withoutExample, [], "without an example");
});

test("every example imports the module by its name", async () => {
  for (const [name, declarations] of Object.entries(await documented())) {
    for (const { doc } of declarations) {
      for (const [, example] of doc.matchAll(/```ts\n([^]*?)```/g)) {
        assert(/ from "@graceful\/deno";/.test(example), `the example of ${name}`);
      }
    }
  }
});

function kindOf(value: unknown): Kind | undefined {
  if (typeof value !== "function") return undefined;
  return /^class\b/.test(Function.prototype.toString.call(value)) ? "class" : "function";
}

interface Declaration {
  kind: string;
  doc: string;
}

/** What `deno doc` tells of each name that mod.ts exports. */
async function documented(): Promise<Record<string, Declaration[]>> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--json", new URL("../mod.ts", import.meta.url).pathname],
  }).output();
  assertEquals(code, 0, new TextDecoder().decode(stderr));
  const { nodes } = JSON.parse(new TextDecoder().decode(stdout));
  const symbols: Record<string, Declaration[]> = {};
  const add = (name: string, { kind, jsDoc }: { kind: string; jsDoc?: { doc?: string } }) => {
    // The text at the head of a module is not an export's.
    if (kind !== "moduleDoc") (symbols[name] ??= []).push({ kind, doc: jsDoc?.doc ?? "" });
  };
  // Older versions give one list of declarations, newer ones a list of symbols for each module.
  if (Array.isArray(nodes)) {
    for (const node of nodes) add(node.name, node);
  } else {
    for (const { symbols } of Object.values(nodes) as { symbols: Documented[] }[]) {
      for (const { name, declarations } of symbols) {
        for (const declaration of declarations) add(name, declaration);
      }
    }
  }
  return symbols;
}

interface Documented {
  name: string;
  declarations: { kind: string; jsDoc?: { doc?: string } }[];
}
