/**
 * The sockets that Deno opens for signals.
 *
 * @module
 */

/**
 * Makes Deno open its pair of sockets for signals now. Otherwise it opens them at the first signal listener or half a
 * second after the start, and panics if the process is at its limit of descriptors then (2.9.6).
 */
export function openSignalSockets(): void {
  const ignore = () => {};
  Deno.addSignalListener("SIGUSR2", ignore);
  Deno.removeSignalListener("SIGUSR2", ignore);
}
