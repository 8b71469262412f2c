/**
 * What the library relies on in systemd, tried without the library.
 *
 * @module
 */

import type { Fact } from "./actor.ts";
import { mainProcessFacts, stopFacts } from "./process_facts.ts";
import { storeFacts } from "./store_facts.ts";

/** All rules, in the order in which they are tried. */
export const facts: Fact[] = [...mainProcessFacts, ...stopFacts, ...storeFacts];
