import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import {
  cancelled,
  clockSchema,
  gathered,
  limit,
  model,
  mood,
  question,
  report,
  toolLimit,
  url,
} from "./task.mjs";

const client = new Anthropic({ baseURL: url, apiKey: "dummy", maxRetries: 0 });
const messages = [{ role: "user", content: question }];
const ask = { model, messages, temperature: 0, max_tokens: limit };
const call = {
  ...ask,
  tools: [{ name: "clock", input_schema: clockSchema }],
  tool_choice: { type: "any", disable_parallel_tool_use: true },
  max_tokens: toolLimit,
};

const textOf = ({ content, stop_reason, usage }) => ({
  text: content.map(({ text }) => text ?? "").join(""),
  finish: stop_reason,
  prompt: usage.input_tokens + (usage.cache_read_input_tokens ?? 0),
  completion: usage.output_tokens,
});
const callIn = ({ content }) => content.find(({ type }) => type === "tool_use");
const callOf = (answer) => ({
  name: callIn(answer).name,
  arguments: callIn(answer).input,
  finish: answer.stop_reason,
});

await report({
  models: async () => (await gathered(client.models.list())).map(({ id }) => id),

  chat: async () => textOf(await client.messages.create(ask)),

  stream: async () => {
    let pieces = 0;
    const stream = client.messages.stream(ask);
    stream.on("text", () => pieces++);
    return { ...textOf(await stream.finalMessage()), pieces };
  },

  tools: async () => {
    const called = await client.messages.create(call);
    const streamed = await client.messages.stream(call).finalMessage();
    const result = {
      type: "tool_result",
      tool_use_id: callIn(called).id,
      content: "12:30",
    };
    const answered = await client.messages.create({
      ...call,
      messages: [
        ...messages,
        { role: "assistant", content: called.content },
        { role: "user", content: [result] },
      ],
      tool_choice: { type: "none" },
      max_tokens: limit,
    });
    return {
      called: callOf(called),
      streamed: callOf(streamed),
      answered: textOf(answered),
    };
  },

  structured: async () => {
    const output_config = { format: zodOutputFormat(mood) };
    const answer = await client.messages.parse({
      ...ask,
      output_config,
      max_tokens: toolLimit,
    });
    return answer.parsed_output;
  },

  counted: async () => {
    const { model, messages, tools } = call;
    const counted = await client.messages.countTokens({ model, messages, tools });
    const answer = await client.messages.create({
      model,
      messages,
      tools,
      max_tokens: 1,
    });
    return { counted: counted.input_tokens, charged: textOf(answer).prompt };
  },

  refused: () => client.messages.create({ ...ask, top_p: 2 }),

  unknown: () => client.messages.create({ ...ask, model: "nope" }),

  cancelled: async () => {
    const { id, limit, signal, headers, abort } = cancelled();
    const body = { ...ask, max_tokens: limit, stream: true };
    for await (const { type } of await client.messages.create(body, {
      signal,
      headers,
    }))
      if (type === "content_block_delta") abort();
    return id;
  },
});
