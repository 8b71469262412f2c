/**
 * Text of other processes, made fit to be printed: it moves no cursor, hides nothing, and does not look
 * like a line of its own.
 *
 * Pure: no Deno namespace, no ffi.
 *
 * @module
 */

/**
 * Characters that a terminal obeys, or does not show: controls (with DEL and C1, of which U+009B begins
 * an escape sequence), formats (of which some reverse the order of what follows), separators of lines,
 * and halves of surrogate pairs. Made at each call: V8 looks up for 0.3 ms what Unicode says of them.
 */
const hidden = () => /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** Text that has none of them, as a rule. */
const plain = /^[ -~]*$/;

/** Colors and the like (ECMA-48, SGR), which programs print into what is kept of their output. */
const colors = new RegExp("\x1b\\[[\\d;:]*m", "g");

/** Escapes a text, on one line and without quotes: `a\nb`. */
export function escaped(text: string): string {
  if (plain.test(text)) return text;
  return text.replace(hidden(), (character) => {
    const [, short] = /^"(\\[^u])"$/.exec(JSON.stringify(character)) ?? [];
    return short ?? units(character).map((unit) => `\\u${unit}`).join("");
  });
}

/** Quotes a text: `"a\nb"`. The result is JSON. */
export function quoted(text: string): string {
  return escaped(JSON.stringify(text));
}

/**
 * Escapes a text of several lines, such as the last output of a program: all lines but the first are indented, so
 * that none looks like a line of the log.
 */
export function indented(text: string): string {
  const lines = text.replace(colors, "").replaceAll("\t", indent).split(/\r?\n/).map(escaped);
  // Text that went through several processes is indented once.
  return lines.map((line, i) =>
    i === 0 || line === "" || line.startsWith(indent) ? line : indent + line
  )
    .join("\n");
}

const indent = "    ";

/** The UTF-16 code units, in hexadecimal. */
function units(character: string): string[] {
  return character.split("").map((unit) => unit.charCodeAt(0).toString(16).padStart(4, "0"));
}

/** Joins a list for a message: the first entries, and the number of all others. */
export function listed(words: string[]): string {
  const first = words.slice(0, mostListed).join(", ");
  return words.length > mostListed ? `${first} and ${words.length - mostListed} more` : first;
}

const mostListed = 10;
