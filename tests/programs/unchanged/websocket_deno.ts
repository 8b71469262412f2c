const port = Number(Deno.env.get("PORT") ?? 8000);

Deno.serve({ hostname: "127.0.0.1", port }, (request) => {
  if (request.headers.get("upgrade") !== "websocket") {
    return new Response(`hello from process ${Deno.pid}\n`);
  }
  const id = new URL(request.url).searchParams.get("id");
  const { socket, response } = Deno.upgradeWebSocket(request);
  let answered = 0;
  socket.onmessage = ({ data }) => {
    if (socket.readyState !== WebSocket.OPEN) return;
    socket.send(`${Deno.pid} ${data}`);
    answered++;
  };
  socket.onclose = () => console.log(`answered: ${id} ${answered}`);
  return response;
});
