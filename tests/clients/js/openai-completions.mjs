import OpenAI from "openai";
import { cancelled, gathered, limit, model, question, report, url } from "./task.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "dummy", maxRetries: 0 });
const ask = { model, prompt: question, temperature: 0, max_tokens: limit };

const usageOf = ({ usage }) => ({
  prompt: usage.prompt_tokens,
  completion: usage.completion_tokens,
});

await report({
  chat: async () => {
    const answer = await client.completions.create(ask);
    const [{ text, finish_reason: finish }] = answer.choices;
    return { text, finish, ...usageOf(answer) };
  },

  stream: async () => {
    const stream_options = { include_usage: true };
    const chunks = await gathered(
      await client.completions.create({ ...ask, stream: true, stream_options }),
    );
    const choices = chunks.flatMap((chunk) => chunk.choices);
    return {
      text: choices.map(({ text }) => text).join(""),
      pieces: choices.filter(({ text }) => text).length,
      finish: choices.at(-1).finish_reason,
      ...usageOf(chunks.at(-1)),
    };
  },

  refused: () => client.completions.create({ ...ask, top_p: 2 }),

  unknown: () => client.completions.create({ ...ask, model: "nope" }),

  cancelled: async () => {
    const { id, limit, signal, headers, abort } = cancelled();
    const body = { ...ask, max_tokens: limit, stream: true };
    for await (const _ of await client.completions.create(body, { signal, headers }))
      abort();
    return id;
  },
});
