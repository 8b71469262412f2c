/**
 * A program with a default export: answers with its process.
 *
 * @module
 */

export default {
  fetch: () => Response.json({ pid: Deno.pid, isMain: import.meta.main, args: Deno.args }),
};
