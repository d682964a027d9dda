import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import {
  cancelled,
  clock,
  gathered,
  limit,
  model,
  mood,
  question,
  report,
  toolLimit,
  url,
} from "./task.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "dummy", maxRetries: 0 });
const chat = client.chat.completions;
const messages = [{ role: "user", content: question }];
const ask = { model, messages, temperature: 0, max_completion_tokens: limit };
const call = {
  ...ask,
  tools: [zodFunction({ name: "clock", parameters: clock })],
  tool_choice: "required",
  parallel_tool_calls: false,
  max_completion_tokens: toolLimit,
};

const usageOf = ({ usage }) => ({
  prompt: usage.prompt_tokens,
  completion: usage.completion_tokens,
});
const textOf = (answer) => ({
  text: answer.choices[0].message.content,
  finish: answer.choices[0].finish_reason,
  ...usageOf(answer),
});
const callOf = (answer) => ({
  name: answer.choices[0].message.tool_calls[0].function.name,
  arguments: answer.choices[0].message.tool_calls[0].function.parsed_arguments,
  finish: answer.choices[0].finish_reason,
});

await report({
  models: async () => (await gathered(client.models.list())).map(({ id }) => id),

  chat: async () => textOf(await chat.create(ask)),

  stream: async () => {
    let pieces = 0;
    const stream = chat.stream({ ...ask, stream_options: { include_usage: true } });
    stream.on("content", () => pieces++);
    return { ...textOf(await stream.finalChatCompletion()), pieces };
  },

  tools: async () => {
    const called = await chat.parse(call);
    const streamed = await chat.stream(call).finalChatCompletion();
    const { message } = called.choices[0];
    const result = {
      role: "tool",
      tool_call_id: message.tool_calls[0].id,
      content: "12:30",
    };
    const answered = await chat.create({
      ...call,
      messages: [...messages, message, result],
      tool_choice: "none",
      max_completion_tokens: limit,
    });
    return {
      called: callOf(called),
      streamed: callOf(streamed),
      answered: textOf(answered),
    };
  },

  structured: async () => {
    const answer = await chat.parse({
      ...ask,
      response_format: zodResponseFormat(mood, "mood"),
      max_completion_tokens: toolLimit,
    });
    return answer.choices[0].message.parsed;
  },

  refused: () => chat.create({ ...ask, top_p: 2 }),

  unknown: () => chat.create({ ...ask, model: "nope" }),

  cancelled: async () => {
    const { id, limit, signal, headers, abort } = cancelled();
    const body = { ...ask, max_completion_tokens: limit, stream: true };
    for await (const _ of await chat.create(body, { signal, headers })) abort();
    return id;
  },
});
