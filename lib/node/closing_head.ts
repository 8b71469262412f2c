/**
 * The head of an HTTP/1 answer that makes the client close its connection.
 *
 * @module
 */

/** The fields that say whether the connection stays (RFC 9112, 9.3; Keep-Alive: RFC 2068, 19.7.1). */
const fields = /^(connection|keep-alive):.*\r\n/gim;

/**
 * Gives the head with `Connection: close`. Nothing else changes: node itself goes on as if the connection stayed, and so
 * answers requests that are on the way on it.
 */
export function closingHead(head: string): string {
  const end = head.lastIndexOf("\r\n");
  return `${head.slice(0, end).replaceAll(fields, "")}Connection: close\r\n\r\n`;
}
