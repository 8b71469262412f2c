/**
 * What a sender does when no more descriptors may be on their way; to be run under a low limit of open
 * ones, and without the capabilities that lift it.
 *
 * @module
 */

import { unreadBytes } from "../../ffi/socket_options.ts";
import { pause } from "../../lib/time.ts";
import { receiveAllFrom, ResponseWriter, type SendOptions } from "../../mod.ts";
import { connectedPair } from "../support/raw.ts";
import { until } from "../support/until.ts";

const [sender, receiver] = connectedPair();
const [other, otherReceiver] = connectedPair();

/** Two full messages are more than the limit, so the third has to wait. */
const first = new ResponseWriter(sender);
const writing = write(first, 3 * 170);
await until(() => unreadBytes(receiver.fd.raw) === 2 * 170 * 4);
await pause(50);
const bytesWaiting = unreadBytes(receiver.fd.raw);
print({ limited: bytesWaiting < 3 * 170 * 4, bytesWaiting, sent: first.sent });

// The limit is the user's: another connection of the same process has to wait too.
const { code, message } = await failureOf({ stallTimeout: 50 });
print({ error: code, message: message.match(/for \d+ ms/)?.[0], sent: first.sent });
const reason = new Error("enough");
const controller = new AbortController();
const failing = failureOf({ signal: controller.signal });
controller.abort(reason);
print({ aborted: await failing === reason });

// When they are read it goes on.
const receiving = receiveAllFrom(receiver, () => {});
await writing;
const sentAfterwards = first.sent;
sender.close();
print({ received: await receiving - 170, sentAfterwards });
for (const conn of [receiver, other, otherReceiver]) conn.close();

async function write(response: ResponseWriter, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await response.write(0);
  await response.flush();
}

async function failureOf(options: SendOptions): Promise<Error & { code?: string }> {
  try {
    await write(new ResponseWriter(other, options), 1);
  } catch (error) {
    return error as Error;
  }
  throw new Error("It was sent");
}

function print(value: unknown): void {
  console.log(JSON.stringify(value));
}
