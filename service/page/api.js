// The server's REST API: requests, streamed events, and its errors as sentences to act on.

const KEY = "at2-key";

/** A request that failed, with a sentence for the person in front of the page. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Statuses that errors in the middle of a stream would have had, by code. */
const STREAMED = {
  server_busy: 429,
  generator_failed: 502,
  engine_down: 503,
  generator_unavailable: 503,
  server_stopping: 503,
  store_unavailable: 503,
  deadline_exceeded: 504,
  generator_late: 504,
  out_of_memory: 507,
};

const streamed = ({ code, type }) => STREAMED[code] ?? (type === "invalid_request_error" ? 400 : 500);

/** Say what went wrong, and what to do about it. */
function sentence(status, error, retryAfter) {
  const said = error?.message ?? "";
  const details = said ? ` (${said})` : "";
  const again = retryAfter > 1 ? `in ${retryAfter} seconds` : "in a moment";
  if (status === 401)
    return error?.code === "invalid_api_key"
      ? "The server does not know this API key. Check it and enter it again."
      : "This server asks for an API key.";
  if (status === 404 && error?.code === "unknown_id")
    return "This answer is no longer kept by the server. Ask again to get a new one.";
  if (status === 413) return `This is more than the server takes at once. Shorten the context${details}.`;
  if (status === 429) return `The server is busy with other requests. Try again ${again}.`;
  if (status === 503) return `The server cannot answer just now. Try again ${again}${details}.`;
  if (status === 504) return `This took longer than the server allows. Try less text or another method${details}.`;
  if (status === 507) return `The server has too little memory for this. Shorten the context${details}.`;
  if (error?.code === "context_length_exceeded")
    return `The context is too long for this model. Shorten it or leave documents out${details}.`;
  if (status >= 500) return `Something went wrong in the server. Try again; if it stays so, tell its operator${details}.`;
  return said ? `The server refused this: ${said}.` : `The server refused this (status ${status}).`;
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  const status = response.status;
  return new ApiError(sentence(status, body?.error, retryAfter), { status, code: body?.error?.code });
}

async function send(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      signal,
      cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Check that it runs, then try again.");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

const json = async (path, options) => (await send(path, options)).json();
const generation = (id) => `/generations/${encodeURIComponent(id)}`;

export const info = () => json("/info");
export const record = (id) => json(generation(id));
export const prompt = (id) => json(`${generation(id)}/prompt`);
export const attribute = (body, signal) => json("/attribute", { method: "POST", body, signal });
export const examples = () => json("/page/examples.json");

/** The stand-alone page of a generation, as a file. */
export async function exported(id, options) {
  return (await send(`${generation(id)}/export.html?${new URLSearchParams(options)}`)).blob();
}

/** Values of the `data:` lines of a stream of server-sent events, as they come. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}

/** Generate a response; `onText` gets each piece. Returns the finished record. */
export async function generate(body, onText, signal) {
  const response = await send("/generate", { method: "POST", body: { ...body, stream: true }, signal });
  let record = null;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(sentence(streamed(event.error), event.error, 0));
      if (event.type === "delta") onText(event.text);
      if (event.type === "done") record = event.generation;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("The connection broke before the answer was complete. Ask again.");
  }
  if (record === null) throw new ApiError("The answer ended before it was complete. Ask again.");
  return record;
}
