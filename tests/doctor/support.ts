/**
 * An examination in a test, and its findings by level and subject.
 *
 * @module
 */

import { assert } from "@std/assert";
import { diagnose, type Diagnosis } from "../../lib/doctor/doctor.ts";
import type { Finding } from "../../lib/doctor/finding.ts";

/** Examines the service at a control path. */
export async function examine(path: string, timeout = 10_000): Promise<Diagnosis> {
  const diagnosis = await diagnose({ path }, timeout);
  // The unit of the shell or service that runs the tests is not what they are about.
  diagnosis.findings = diagnosis.findings.filter(({ about }) =>
    !/^[A-Z]|^(unit|sandbox)/.test(about)
  );
  return diagnosis;
}

/** The one finding whose text matches. */
export function finding({ findings }: Diagnosis, text: RegExp): Finding {
  const found = findings.filter((each) => text.test(each.text));
  assert(found.length === 1, `${text}: ${JSON.stringify(findings, null, 1)}`);
  return found[0];
}

/** The findings that are neither ok nor a note. */
export function bad({ findings }: Diagnosis): Finding[] {
  return findings.filter(({ level }) => level === "warning" || level === "problem");
}
