// What the openai npm package sees of a gateway, as one line of JSON:
//   node client.mjs BASE_URL CASE '{"model": ..., "messages": ...}'
import OpenAI from "openai";

const [baseURL, name, given] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${baseURL}/v1`, apiKey: "none", maxRetries: 0 });
const asked = JSON.parse(given);

const cases = {
  async create() {
    const answer = await client.chat.completions.create(asked);
    return { answer, request_id: answer._request_id };
  },

  async stream() {
    const stream = await client.chat.completions.create({
      ...asked,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return chunks;
  },

  async helper() {
    const deltas = [];
    const runner = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
    runner.on("content", (delta) => deltas.push(delta));
    const final = await runner.finalChatCompletion();
    return { deltas, final, usage: await runner.totalUsage() };
  },

  async parse() {
    const answer = await client.chat.completions.parse(asked);
    return answer.choices[0].message;
  },

  async tools() {
    const calls = [];
    const runner = client.chat.completions.runTools({
      ...asked,
      tools: asked.tools.map((tool) => ({
        type: "function",
        function: {
          ...tool.function,
          parse: JSON.parse,
          function: (given) => {
            calls.push({ name: tool.function.name, given });
            return asked.result;
          },
        },
      })),
      result: undefined,
    });
    const content = await runner.finalContent();
    return { calls, content, messages: runner.messages };
  },

  async completions() {
    const whole = await client.completions.create(asked);
    const texts = whole.choices.map(() => "");
    for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
      for (const choice of chunk.choices) texts[choice.index] += choice.text;
    }
    return { whole, texts };
  },

  async models() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model);
    return { listed, retrieved: await client.models.retrieve(asked.model) };
  },

  async error() {
    const { headers, ...body } = asked;
    const pieces = [];
    try {
      const stream = await client.chat.completions.create({ ...body, stream: true }, { headers });
      for await (const chunk of stream) pieces.push(chunk.choices[0].delta.content ?? "");
    } catch (error) {
      const { status, code, param, type, message, requestID } = error;
      const classes = ["BadRequestError", "NotFoundError", "InternalServerError", "APIError"];
      const kind = classes.find((one) => error instanceof OpenAI[one]);
      return { kind, status, code, param, type, message, requestID, pieces };
    }
    return { kind: null, pieces };
  },

  async abort() {
    const controller = new AbortController();
    const stream = await client.chat.completions.create(
      { ...asked, stream: true },
      { signal: controller.signal },
    );
    let id = null;
    let text = "";
    for await (const chunk of stream) {
      id = chunk.id;
      text += chunk.choices[0].delta.content ?? "";
      if (text.length >= 5) controller.abort();
    }
    return { id, text };
  },
};

console.log(JSON.stringify((await cases[name]()) ?? null));
