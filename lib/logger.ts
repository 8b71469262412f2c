/**
 * The log of the library.
 *
 * @module
 */

/** Takes messages for the log; `console` is a logger. A level without a method is not logged. */
export interface Logger {
  /** Steps that are of use for debugging. */
  debug?(message: string, ...details: unknown[]): void;
  /** Events that an operator may want to know. */
  info?(message: string, ...details: unknown[]): void;
  /** A mistake in the set-up of a service that works nevertheless: the message says what to change. */
  warn?(message: string, ...details: unknown[]): void;
  /** Errors. */
  error?(message: string, ...details: unknown[]): void;
}

/**
 * Prints to stderr as `console.error` does. Text that cannot be written is lost: on a full disk (ENOSPC) and on a
 * terminal that has gone (EIO) every version of Deno throws, and on a pipe without a reader (EPIPE) versions before
 * 2.8 do. The report of an error must not become another error.
 */
export function printError(...message: unknown[]): void {
  try {
    console.error(...message);
  } catch {
    // There is no other place to say it.
  }
}

/**
 * Calls the logger of the program, and catches its errors: those that it throws, and those of a promise that it
 * returns.
 */
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
 * Wraps a logger: an error of it does not end the service. The message is printed to stderr with that error, as far
 * as stderr can be written.
 *
 * @param logger Without one, warnings and errors go to the console.
 */
export function guarded(logger: Logger = { warn: console.warn, error: console.error }): Logger {
  return logger instanceof Guarded ? logger : new Guarded(logger);
}
