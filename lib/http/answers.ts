/**
 * Properties of a request and its answer, and the answer that makes a client close its connection.
 *
 * @module
 */

/** Whether Deno can send this answer. */
export function isSendable(answer: unknown): answer is Response {
  return answer instanceof Response && !answer.bodyUsed && answer.type !== "error";
}

/** Whether a request has a body, some of which may not have arrived yet. */
export function hasBody({ method, headers }: Request): boolean {
  if (method === "GET" || method === "HEAD") return false;
  return headers.has("transfer-encoding") || Number(headers.get("content-length") ?? 0) > 0;
}

/** Whether a request was upgraded: reading `request.body` throws then. */
export function isUpgraded(request: Request): boolean {
  // The methods of the WebSocket handshake, by HTTP/1 and HTTP/2: the body of any other would be touched.
  if (request.method !== "GET" && request.method !== "CONNECT") return false;
  try {
    void request.body;
    return false;
  } catch {
    return true;
  }
}

/**
 * Makes Deno take an answer for the response of an upgrade, and send it unchanged: any other answer to an
 * upgraded request shuts the whole server down ("Upgrade response was not returned from callback").
 */
export function asUpgrade(answer: Response): Response {
  return Object.defineProperty(answer, "status", { value: 101 });
}

/**
 * Gives an HTTP/1 answer the header `Connection: close`. The client closes the connection, so none of its
 * requests can be on the way when it does.
 */
export function withConnectionClose(answer: Response, request: Request): Response {
  if (hasBody(request)) markBodyAsRead(request);
  return mayKeepHttp10Alive(request, answer) ? closeDelimited(answer) : withCloseHeader(answer);
}

/**
 * Makes Deno take the body of a request for read: if some of it has not arrived, Deno adds a `Connection:
 * close` of its own otherwise (2.9.6; 2.8.3 to 2.9.3 add it in any case).
 */
function markBodyAsRead(request: Request): void {
  void request.bodyUsed;
}

/**
 * Whether the client may be an HTTP/1.0 client that keeps its connection alive; HTTP/1.1 clients may send
 * keep-alive, too. Deno answers keep-alive to such a client whatever the handler sets: beside the handler's
 * `close` (2.9), or in its place (up to 2.8.2).
 */
function mayKeepHttp10Alive({ headers, method }: Request, { status }: Response): boolean {
  if (method === "HEAD" || status === 204 || status === 205 || status === 304) return false;
  return /\bkeep-alive\b/i.test(headers.get("connection") ?? "");
}

/**
 * The answer without a length. In HTTP/1.0 it ends with its connection (RFC 9112, 6.3), which every version
 * of Deno then closes; in HTTP/1.1 it is sent in chunks.
 */
function closeDelimited(answer: Response): Response {
  const headers = new Headers(answer.headers);
  headers.delete("content-length");
  headers.set("connection", "close");
  const { status, statusText } = answer;
  return new Response(withoutLength(answer.body), { headers, status, statusText });
}

/** The same body as a stream of unknown length: Deno 2.9 sends the length of a body that was given as a whole. */
function withoutLength(body: ReadableStream<Uint8Array> | null): ReadableStream<Uint8Array> {
  const reader = body?.getReader();
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await reader?.read() ?? { done: true };
      if (done) controller.close();
      else controller.enqueue(value!);
    },
    cancel: (reason) => reader?.cancel(reason),
  });
}

/** Sets the header on the answer itself where that is possible, else on a copy. */
function withCloseHeader(answer: Response): Response {
  const { headers } = answer;
  const previous = headers.get("connection");
  try {
    headers.set("connection", "close");
  } catch (error) {
    // The headers of Response.redirect() and of fetch() responses are immutable.
    if (!(error instanceof TypeError)) throw error;
    const headers = new Headers(answer.headers);
    headers.set("connection", "close");
    const { body, status, statusText } = answer;
    return new Response(body, { headers, status, statusText });
  }
  // The program may return an answer without a body for other requests, too: the header is restored in a
  // later turn, when Deno has read it.
  setTimeout(() =>
    previous === null ? headers.delete("connection") : headers.set("connection", previous)
  );
  return answer;
}
