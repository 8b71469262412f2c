export default {
  async fetch(request: Request): Promise<Response> {
    if (new URL(request.url).pathname === "/slow") {
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    return new Response(`hello from process ${Deno.pid}\n`);
  },
} satisfies Deno.ServeDefaultExport;
