// What every script asks of its SDK, and how it reports what came of it.
import { z } from "zod";

export const url = process.env.GATEWAY_URL;
export const model = process.env.GATEWAY_MODEL;
export const question = "Once upon a time";
export const limit = 48;
export const toolLimit = 160;
export const zone = z.enum(["utc", "cet"]);
export const clock = z.strictObject({ zone });
export const mood = z.strictObject({ happy: z.boolean() });
export const clockSchema = {
  type: "object",
  properties: { zone: { type: "string", enum: zone.options } },
  required: ["zone"],
  additionalProperties: false,
};

/** A request whose id the gateway's log tells, and which ends in the middle. */
export function cancelled() {
  const controller = new AbortController();
  const id = `cancelled-${process.pid}`;
  return {
    id,
    limit: 2000,
    signal: controller.signal,
    headers: { "X-Request-Id": id },
    abort: () => controller.abort(),
  };
}

/** All that an async iterable has. */
export async function gathered(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

/** Run one after another, or the named one alone, and print what each returned or threw. */
export async function report(scenarios) {
  const results = {};
  const { ONLY: only } = process.env;
  for (const [name, scenario] of Object.entries(scenarios)) {
    if (only && name !== only) continue;
    try {
      results[name] = { returned: await scenario() };
    } catch (error) {
      results[name] = { threw: told(error) };
    }
  }
  console.log(JSON.stringify(results));
}

function told(error) {
  return {
    name: error.constructor.name,
    status: error.status ?? error.statusCode,
    message: error.message,
    body: error.error ?? error.data,
  };
}
