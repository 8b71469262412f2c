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
  /** What went wrong. */
  error?(message: string, ...details: unknown[]): void;
}

/** A logger that throws must not end the service: what it says goes to the console. */
export function guarded(logger: Logger): Logger {
  const guard = (level: keyof Logger) => (message: string, ...details: unknown[]) => {
    try {
      logger[level]?.(message, ...details);
    } catch (error) {
      console.error(`The logger failed at: ${message}`, error);
    }
  };
  const { debug, info, error } = logger;
  return {
    debug: debug && guard("debug"),
    info: info && guard("info"),
    error: error && guard("error"),
  };
}
