import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
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

const at = { baseURL: `${url}/v1`, apiKey: "dummy" };
const one = { parallelToolCalls: false };
const [provide, providerOptions] = {
  "openai-responses": [
    (id = model) => createOpenAI(at)(id),
    { openai: { ...one, store: false } },
  ],
  "openai-chat": [(id = model) => createOpenAI(at).chat(id), { openai: one }],
  "openai-compatible": [
    (id = model) =>
      createOpenAICompatible({
        ...at,
        name: "cortex",
        includeUsage: true,
        supportsStructuredOutputs: true,
      })(id),
    { cortex: { parallel_tool_calls: false } },
  ],
  anthropic: [
    (id = model) => createAnthropic(at)(id),
    {
      anthropic: { disableParallelToolUse: true, structuredOutputMode: "outputFormat" },
    },
  ],
}[process.argv[2]];

const ask = {
  model: provide(),
  providerOptions,
  prompt: question,
  temperature: 0,
  maxOutputTokens: limit,
  maxRetries: 0,
  onError: () => {}, // What it is told, the stream tells again.
};
const tools = { clock: tool({ inputSchema: clock, execute: () => "12:30" }) };
const roundTrip = {
  ...ask,
  tools,
  maxOutputTokens: toolLimit,
  stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
};

const usageOf = ({ inputTokens, outputTokens }) => ({
  prompt: inputTokens,
  completion: outputTokens,
});
const textOf = async (result) => ({
  text: await result.text,
  finish: await result.finishReason,
  ...usageOf(await result.usage),
});
const callOf = ({ toolCalls: [call], finishReason }) => ({
  name: call.toolName,
  arguments: call.input,
  finish: finishReason,
});

await report({
  chat: async () => textOf(await generateText(ask)),

  stream: async () => {
    const result = streamText(ask);
    const pieces = await gathered(result.textStream);
    return { ...(await textOf(result)), pieces: pieces.length };
  },

  tools: async () => {
    const [called, answered] = (await generateText(roundTrip)).steps;
    const [streamed] = await streamText(roundTrip).steps;
    return {
      called: callOf(called),
      streamed: callOf(streamed),
      answered: await textOf(answered),
    };
  },

  structured: async () => {
    const output = Output.object({ schema: mood });
    return (await generateText({ ...ask, output, maxOutputTokens: toolLimit })).output;
  },

  refused: () => generateText({ ...ask, temperature: undefined, topP: 2 }),

  unknown: () => generateText({ ...ask, model: provide("nope") }),

  cancelled: async () => {
    const { id, limit, signal, headers, abort } = cancelled();
    const body = { ...ask, maxOutputTokens: limit, abortSignal: signal, headers };
    for await (const _ of streamText(body).textStream) abort();
    return id;
  },
});
