/**
 * A streamed answer that a test holds back.
 *
 * @module
 */

const encoder = new TextEncoder();

/** Answers in three pieces: the first is sent at once, the others after `release()`. */
export class HeldAnswer {
  /** The whole body. */
  static readonly text = "one two three";
  readonly #released = Promise.withResolvers<void>();
  /** How many answers have begun. */
  begun = 0;

  /** The handler. */
  readonly answer = (): Response => {
    this.begun++;
    return new Response(ReadableStream.from(this.#pieces()));
  };

  /** Sends the rest of every answer. */
  release(): void {
    this.#released.resolve();
  }

  async *#pieces(): AsyncGenerator<Uint8Array> {
    yield encoder.encode("one ");
    await this.#released.promise;
    yield encoder.encode("two ");
    yield encoder.encode("three");
  }
}
