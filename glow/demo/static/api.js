// What the page asks the server for.

// Not crypto.randomUUID: a page that comes by plain http from another machine has none.
const visitor = Array.from(crypto.getRandomValues(new Uint8Array(9)), (b) => b.toString(16)).join("");

// The events of a request, one object each, while they come. Throws an Error whose message is a sentence.
export async function* ask(name, settings, signal) {
  const response = await send(`api/${name}`, JSON.stringify(settings), signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield checked(JSON.parse(line));
  }
}

// Sends a file; gives the word that points to it.
export async function upload(file, signal) {
  return checked(await (await send("api/upload", file, signal)).json()).image;
}

async function send(path, body, signal) {
  let response;
  try {
    response = await fetch(path, { method: "POST", body, signal, headers: { "X-Visitor": visitor } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is demo.py still running?");
  }
  if (response.ok) return response;
  const text = await response.text();
  try {
    checked(JSON.parse(text));
  } catch (error) {
    throw error instanceof SyntaxError ? new Error(text) : error;
  }
}

function checked(event) {
  if (event.error) throw new Error(sentence(event.error));
  return event;
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}
