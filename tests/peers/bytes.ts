/**
 * Bytes, text and hexadecimal digits, for metas and plain data.
 *
 * @module
 */

export function text(words: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(words);
}

/** Bytes of every value: a meta may contain any. */
export function bytes(length: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, i) => i * 7);
}

export function hex(bytes: Iterable<number>): string {
  return Uint8Array.from(bytes).toHex();
}

/** Reads a connection to its end. */
export async function readAll(conn: Deno.Conn): Promise<string> {
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(4096);
  let all = "";
  for (let n = await conn.read(chunk); n !== null; n = await conn.read(chunk)) {
    all += decoder.decode(chunk.subarray(0, n), { stream: true });
  }
  return all;
}
