import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import {
  cancelled,
  clock,
  limit,
  model,
  mood,
  question,
  report,
  toolLimit,
  url,
} from "./task.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "dummy", maxRetries: 0 });
const ask = {
  model,
  input: question,
  temperature: 0,
  max_output_tokens: limit,
  store: false,
};
const call = {
  ...ask,
  tools: [zodResponsesFunction({ name: "clock", parameters: clock })],
  tool_choice: "required",
  parallel_tool_calls: false,
  max_output_tokens: toolLimit,
};

const textOf = ({ output_text, status, incomplete_details, usage }) => ({
  text: output_text,
  finish: incomplete_details?.reason ?? status,
  prompt: usage?.input_tokens,
  completion: usage?.output_tokens,
});
const callIn = ({ output }) => output.find(({ type }) => type === "function_call");
const callOf = (answer) => ({
  name: callIn(answer).name,
  arguments: callIn(answer).parsed_arguments,
  finish: answer.status,
});

await report({
  chat: async () => textOf(await client.responses.create(ask)),

  stream: async () => {
    let pieces = 0;
    const stream = client.responses.stream(ask);
    stream.on("response.output_text.delta", () => pieces++);
    return { ...textOf(await stream.finalResponse()), pieces };
  },

  tools: async () => {
    const called = await client.responses.parse(call);
    const streamed = await client.responses.stream(call).finalResponse();
    const result = {
      type: "function_call_output",
      call_id: callIn(called).call_id,
      output: "12:30",
    };
    const answered = await client.responses.create({
      ...call,
      input: [{ role: "user", content: question }, ...called.output, result],
      tool_choice: "none",
      max_output_tokens: limit,
    });
    return {
      called: callOf(called),
      streamed: callOf(streamed),
      answered: textOf(answered),
    };
  },

  structured: async () => {
    const text = { format: zodTextFormat(mood, "mood") };
    const body = { ...ask, text, max_output_tokens: toolLimit };
    return (await client.responses.parse(body)).output_parsed;
  },

  counted: async () => {
    const { model, input, tools } = call;
    const counted = await client.responses.inputTokens.count({ model, input, tools });
    const answer = await client.responses.create({ ...call, tool_choice: "auto" });
    return { counted: counted.input_tokens, charged: answer.usage.input_tokens };
  },

  refused: () => client.responses.create({ ...ask, top_p: 2 }),

  unknown: () => client.responses.create({ ...ask, model: "nope" }),

  cancelled: async () => {
    const { id, limit, signal, headers, abort } = cancelled();
    const body = { ...ask, max_output_tokens: limit, stream: true };
    for await (const { type } of await client.responses.create(body, {
      signal,
      headers,
    }))
      if (type === "response.output_text.delta") abort();
    return id;
  },
});
