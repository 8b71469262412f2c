/**
 * Where the library says what it does.
 *
 * @module
 */

/** Takes messages for the log; `console` is one. What is absent is not logged. */
export interface Logger {
  /** What happens all the time. */
  debug?(message: string, ...details: unknown[]): void;
  /** What an operator may want to know. */
  info?(message: string, ...details: unknown[]): void;
  /** What works, and is probably not what was meant: it names what to change. */
  warn?(message: string, ...details: unknown[]): void;
  /** What went wrong. */
  error?(message: string, ...details: unknown[]): void;
}

/**
 * Prints to stderr as `console.error` does. Text that cannot be written is lost: on a full disk (ENOSPC)
 * and on a terminal that has gone (EIO) every version of Deno throws, and where nobody reads the pipe
 * (EPIPE) those before 2.8 do. An error that is reported is not to become another one.
 */
export function printError(...message: unknown[]): void {
  try {
    console.error(...message);
  } catch {
    // There is no other place to say it.
  }
}

/** Calls the logger of the user, which may fail: at once, or later, when it gives a promise. */
class Guarded implements Logger {
  readonly debug: Logger["debug"];
  readonly info: Logger["info"];
  readonly warn: Logger["warn"];
  readonly error: Logger["error"];

  constructor(logger: Logger) {
    const guard = (level: keyof Logger) => (message: string, ...details: unknown[]) => {
      const fail = (error: unknown) => printError(`The logger failed at: ${message}`, error);
      try {
        const result = logger[level]?.(message, ...details) as unknown;
        if (result instanceof Promise) result.catch(fail);
      } catch (error) {
        fail(error);
      }
    };
    const { debug, info, warn, error } = logger;
    this.debug = debug && guard("debug");
    this.info = info && guard("info");
    this.warn = warn && guard("warn");
    this.error = error && guard("error");
  }
}

/**
 * A logger that fails must not end the service: what it was told is printed to stderr, with the error,
 * as far as that can be written to.
 *
 * @param logger Without one, warnings and errors go to the console.
 */
export function guarded(logger: Logger = { warn: console.warn, error: console.error }): Logger {
  return logger instanceof Guarded ? logger : new Guarded(logger);
}
