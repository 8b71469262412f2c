import { assert, assertEquals } from "@std/assert";
import { escaped, indented, quoted } from "../../ffi/quote.ts";

/** What is not shown as it is, and how it is escaped. */
const hidden: Record<string, string> = {
  "\0": "\\u0000",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
  "\x07": "\\u0007",
  "\x1b": "\\u001b",
  "\x7f": "\\u007f",
  // CSI in one character, NEL, and what separates lines and paragraphs.
  "\x9b": "\\u009b",
  "\x85": "\\u0085",
  "\u2028": "\\u2028",
  "\u2029": "\\u2029",
  // These change the order of what follows, or are not seen.
  "\u202e": "\\u202e",
  "\u2066": "\\u2066",
  "\u200b": "\\u200b",
  "\ufeff": "\\ufeff",
  "\u{e0041}": "\\udb40\\udc41",
  "\ud800": "\\ud800",
};

Deno.test("a character that a terminal obeys or does not show is escaped, every other one is not", () => {
  for (const [character, escape] of Object.entries(hidden)) {
    assertEquals(escaped(`a${character}b`), `a${escape}b`);
    assertEquals(quoted(`a${character}b`), `"a${escape}b"`);
  }
  const shown = `a "quoted" \\ word, ümläut, 中文, العربية, 😀`;
  assertEquals(escaped(shown), shown);
});

Deno.test("a quoted text is JSON of the same text, and ends where the text ends", () => {
  for (const text of ["", `a", "b`, "\\", ...Object.keys(hidden)]) {
    assertEquals(JSON.parse(quoted(text)), text);
  }
});

Deno.test("of several lines, none but the first begins where a line of the log would", () => {
  const text =
    "\x1b[1m\x1b[38;5;1merror\x1b[0m\r\n\tat main\n    deeper\n\n2026-01-01 forged\rhidden";
  const printed = "error\n    at main\n    deeper\n\n    2026-01-01 forged\\rhidden";
  assertEquals(indented(text), printed);
  assertEquals(indented(printed), printed);
  assert(printed.split("\n").slice(1).every((line) => line === "" || line.startsWith(" ")));
});
