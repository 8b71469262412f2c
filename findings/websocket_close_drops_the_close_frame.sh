#!/bin/sh
# Deno 2.9.6: WebSocket.close() of a server sends no Close frame when another message has arrived.
#
# The server answers a message and calls close(4000). The client has sent four messages with one write, so the
# next message has arrived at that moment: Deno closes the connection, and never writes the Close frame, which
# RFC 6455, 7.1.2, demands. With one message the frame arrives. The reason: the frame is written one turn of the
# event loop after close(), and the read loop closes the connection at the first message that it reads in the
# state CLOSING (ext/websocket/01_websocket.js). Versions 2.0.6, 2.5.6, 2.8.2 and 2.8.3 behave the same.
#
# Needs npm. Prints "as stated: ..." and exits with 0, or "changed: ..." and exits with 1.
set -eu
version=2.9.6
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
npm install --silent --no-audit --no-fund --prefix "$directory" "deno@$version" > /dev/null
cat > "$directory/close.ts" <<'TS'
const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
  const { socket, response } = Deno.upgradeWebSocket(request);
  socket.onmessage = ({ data }) => {
    socket.send(data);
    socket.close(4000, "enough");
  };
  return response;
});

/** Whether a client that sends this many messages at once gets a Close frame. */
async function getsClose(messages: number): Promise<boolean> {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port: server.addr.port });
  const head = "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n" +
    "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
  await conn.write(new TextEncoder().encode(head));
  const chunk = new Uint8Array(4096);
  await conn.read(chunk);
  // A masked text frame of one byte, whose mask is 0.
  const frame = [0x81, 0x81, 0, 0, 0, 0, 0x78];
  await conn.write(Uint8Array.from(Array(messages).fill(frame).flat()));
  const received: number[] = [];
  // The answer has three bytes; a Close frame begins with 0x88.
  while (received.length < 4) {
    const n = await conn.read(chunk).catch(() => null);
    if (n === null) return false;
    received.push(...chunk.subarray(0, n));
  }
  return received[3] === 0x88;
}

/** How many of 100 clients get no Close frame. */
async function countWithout(messages: number): Promise<number> {
  let without = 0;
  for (let i = 0; i < 100; i++) if (!await getsClose(messages)) without++;
  return without;
}

console.log(Deno.version.deno, await countWithout(1), await countWithout(4));
Deno.exit();
TS
set -- $("$directory/node_modules/.bin/deno" run --allow-net --no-check "$directory/close.ts")
result="on Deno $1, $3 of 100 clients got no Close frame with four messages at once, $2 of 100 with one"
if [ "$1" = "$version" ] && [ "$2" -eq 0 ] && [ "$3" -gt 0 ]; then
  echo "as stated: $result"
else
  echo "changed: $result"
  exit 1
fi
