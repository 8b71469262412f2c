import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { isIPv6 } from "node:net";
import { c, structs } from "../../ffi/abi.ts";
import {
  formatAddress,
  formatPath,
  type InetAddress,
  maxAddressBytes,
  maxPathBytes,
  packUnix,
  unpackAddress,
} from "../../ffi/sockaddr.ts";
import { closeAll } from "../../ffi/fd.ts";
import { listenUnix, localAddress, socketPair } from "../../ffi/socket.ts";
import { test } from "../support/guard.ts";

const { sockaddr_un, sockaddr_in, sockaddr_in6 } = structs;
const attempt = `Cannot listen on "x"`;

/** What the kernel would give back for `path`, by our own unpacking. */
function roundTrip(path: string, type: number = c.SOCK_STREAM) {
  const packed = packUnix(path, attempt);
  return unpackAddress(packed, packed.length, type);
}

test("a unix path is packed with its terminating zero and no more", () => {
  const packed = packUnix("/run/a.sock", attempt);
  assertEquals(packed.length, 2 + "/run/a.sock".length + 1);
  assertEquals(sockaddr_un.read(packed, "sun_family"), c.AF_UNIX);
  assertEquals(new TextDecoder().decode(packed.subarray(2)), "/run/a.sock\0");
});

test("a unix path comes back as it was", () => {
  for (const path of ["/run/a.sock", "a", "relative/a.sock", "/tmp/ü 日本 🦕.sock"]) {
    assertEquals(roundTrip(path), { transport: "unix", path });
  }
});

test("a path of 107 bytes fits, one of 108 is refused with both numbers", () => {
  assertEquals(maxPathBytes, 107);
  const longest = "/" + "a".repeat(106);
  assertEquals(roundTrip(longest), { transport: "unix", path: longest });
  const error = assertThrows(() => packUnix(longest + "b", attempt), RangeError);
  assertEquals(
    error.message,
    `${attempt}: the path has 108 bytes, a unix socket address holds 107`,
  );
});

test("the length of a path counts in bytes, not in characters", () => {
  const path = "/" + "ü".repeat(53);
  assertEquals(roundTrip(path), { transport: "unix", path });
  assertThrows(() => packUnix(path + "ü", attempt), RangeError, "109 bytes");
});

test("an empty path and one with a zero byte inside are refused", () => {
  assertThrows(() => packUnix("", attempt), TypeError, `${attempt}: the path is empty`);
  assertThrows(
    () => packUnix("/run/a\0b", attempt),
    TypeError,
    `${attempt}: the path holds a zero`,
  );
  assertThrows(() => packUnix("a\0", attempt), TypeError, `${attempt}: the path holds a zero`);
});

test("an abstract name is all of its bytes, with no terminator, zeros inside included", () => {
  assertEquals(packUnix("\0name", attempt).length, 2 + 5);
  for (const path of ["\0name", "\0", "\0a\0b", "\0name\0"]) {
    assertEquals(roundTrip(path), { transport: "unix", path });
  }
});

test("an abstract name may use all 108 bytes", () => {
  const longest = "\0" + "a".repeat(107);
  assertEquals(packUnix(longest, attempt).length, sockaddr_un.size);
  assertEquals(roundTrip(longest), { transport: "unix", path: longest });
  assertThrows(() => packUnix(longest + "b", attempt), RangeError, "109 bytes");
});

test("the kernel agrees on the longest path, the longest abstract name and the one in between", () => {
  const directory = Deno.makeTempDirSync();
  try {
    const path = `${directory}/`.padEnd(107, "p");
    const abstract = `\0${crypto.randomUUID()}`.padEnd(108, "a");
    for (const name of [path, abstract, `\0sockaddr\0${crypto.randomUUID()}`]) {
      const raw = listenUnix(name, attempt);
      try {
        assertEquals(localAddress(raw), { transport: "unix", path: name });
      } finally {
        closeAll([raw]);
      }
    }
  } finally {
    Deno.removeSync(directory, { recursive: true });
  }
});

test("a socket without a name has the path null", () => {
  assertEquals(unpackAddress(packUnix("/x", attempt), 2, c.SOCK_STREAM), {
    transport: "unix",
    path: null,
  });
  const [a, b] = socketPair();
  try {
    assertEquals(localAddress(a), { transport: "unix", path: null });
  } finally {
    closeAll([a, b]);
  }
});

test("a path that fills the field to the last byte needs no terminator", () => {
  // Linux accepts such a name and gives it back with a length beyond the field (unix(7), BUGS).
  const bytes = new Uint8Array(maxAddressBytes);
  bytes.set(sockaddr_un.pack({
    sun_family: c.AF_UNIX,
    sun_path: new TextEncoder().encode("p".repeat(108)),
  }));
  for (const length of [sockaddr_un.size, sockaddr_un.size + 1]) {
    assertEquals(unpackAddress(bytes, length, c.SOCK_STREAM), {
      transport: "unix",
      path: "p".repeat(108),
    });
  }
});

test("the socket's type decides between unix and unixpacket, tcp and udp", () => {
  assertEquals(roundTrip("/x", c.SOCK_DGRAM), { transport: "unixpacket", path: "/x" });
  const v4 = sockaddr_in.pack({ sin_family: c.AF_INET, sin_port: 53 });
  const v6 = sockaddr_in6.pack({ sin6_family: c.AF_INET6, sin6_port: 53 });
  for (const [bytes, hostname] of [[v4, "0.0.0.0"], [v6, "::"]] as const) {
    const [stream, datagram] = [c.SOCK_STREAM, c.SOCK_DGRAM].map((type) =>
      unpackAddress(bytes, bytes.length, type)
    );
    assertEquals(stream, { transport: "tcp", hostname, port: 53 });
    assertEquals(datagram, { transport: "udp", hostname, port: 53 });
  }
});

test("a family of another world is undefined", () => {
  const bytes = structs.sockaddr.pack({ sa_family: 16 });
  assertEquals(unpackAddress(bytes, bytes.length, c.SOCK_STREAM), undefined);
});

test("an IPv4 address and its port are read in network order", () => {
  const bytes = sockaddr_in.pack({
    sin_family: c.AF_INET,
    sin_port: 8000,
    sin_addr: { s_addr: 0xc0a80a01 },
  });
  assertEquals([...bytes.subarray(0, 8)], [2, 0, 0x1f, 0x40, 192, 168, 10, 1]);
  assertEquals(unpackAddress(bytes, bytes.length, c.SOCK_STREAM), {
    transport: "tcp",
    hostname: "192.168.10.1",
    port: 8000,
  });
});

/** How the address of these eight groups is written. */
function formatGroups(groups: readonly number[]): string {
  const address = new Uint8Array(16);
  const view = new DataView(address.buffer);
  groups.forEach((group, i) => view.setUint16(i * 2, group));
  const bytes = sockaddr_in6.pack({
    sin6_family: c.AF_INET6,
    sin6_port: 8000,
    sin6_addr: address,
  });
  const unpacked = unpackAddress(bytes, bytes.length, c.SOCK_STREAM) as InetAddress;
  assertEquals([unpacked.transport, unpacked.port], ["tcp", 8000]);
  return unpacked.hostname;
}

test("IPv6 addresses are written as RFC 5952 has them", () => {
  const examples: [number[], string][] = [
    [[0, 0, 0, 0, 0, 0, 0, 0], "::"],
    [[0, 0, 0, 0, 0, 0, 0, 1], "::1"],
    [[1, 0, 0, 0, 0, 0, 0, 0], "1::"],
    [[0xfe80, 0, 0, 0, 0, 0, 0, 1], "fe80::1"],
    // 4.1: leading zeros go.
    [[0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], "2001:db8::1"],
    // 4.2.1: as short as possible.
    [[0x2001, 0xdb8, 0, 0, 0, 0, 2, 1], "2001:db8::2:1"],
    // 4.2.2: one zero group alone stays.
    [[0x2001, 0xdb8, 0, 1, 1, 1, 1, 1], "2001:db8:0:1:1:1:1:1"],
    // 4.2.3: the longest run, and the first of two equal ones.
    [[0x2001, 0, 0, 1, 0, 0, 0, 1], "2001:0:0:1::1"],
    [[0x2001, 0xdb8, 0, 0, 1, 0, 0, 1], "2001:db8::1:0:0:1"],
    // 4.3: lower case.
    [
      [0x2001, 0xdb8, 0xaaaa, 0xbbbb, 0xcccc, 0xdddd, 0xeeee, 1],
      "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1",
    ],
    // 5: IPv4-mapped ones in dots, as Deno shows them.
    [[0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201], "::ffff:192.0.2.1"],
    [[0, 0, 0, 0, 1, 0xffff, 0xc000, 0x0201], "::1:ffff:c000:201"],
  ];
  for (const [groups, expected] of examples) assertEquals(formatGroups(groups), expected);
});

test("a group that ends in a zero is no part of a run of zero groups", () => {
  assertEquals(formatGroups([0x10, 0, 1, 0, 0, 1, 1, 1]), "10:0:1::1:1:1");
});

test("IPv6 addresses of every arrangement of zeros are written as URL has them", () => {
  const wrong: string[] = [];
  for (let mask = 0; mask < 3 ** 8; mask++) {
    const groups = Array.from({ length: 8 }, (_, i) => [0, 1, 0x20][Math.floor(mask / 3 ** i) % 3]);
    const full = groups.map((group) => group.toString(16)).join(":");
    const expected = new URL(`http://[${full}]`).hostname;
    const formatted = formatGroups(groups);
    if (`[${formatted}]` !== expected || !isIPv6(formatted)) wrong.push(`${full} as ${formatted}`);
  }
  assertEquals(wrong.slice(0, 5), [], `${wrong.length} of ${3 ** 8} are wrong`);
});

test("messages show addresses the way people write them", () => {
  const tcp = (hostname: string) => formatAddress({ transport: "tcp", hostname, port: 80 });
  assertEquals(tcp("127.0.0.1"), "127.0.0.1:80");
  assertEquals(tcp("::1"), "[::1]:80");
  assertEquals(formatAddress({ transport: "unix", path: "/run/a.sock" }), `"/run/a.sock"`);
  assertEquals(formatAddress({ transport: "unix", path: "\0name" }), `"@name"`);
  assertEquals(formatAddress({ transport: "unix", path: null }), "an unnamed unix socket");
  assertEquals(formatAddress(undefined), "an unknown address");
  assertStringIncludes(formatPath(`a"b\n`), String.raw`a\"b\n`);
});
