// Server-sent events from a response's body: https://html.spec.whatwg.org/multipage/server-sent-events.html

/** Yields the data of each event, as text; comments, which only keep a connection alive, are passed over. */
export async function* events(body) {
  let data = [];
  for await (const line of lines(body)) {
    if (line === "") {
      if (data.length) yield data.join("\n");
      data = [];
    } else if (line.startsWith("data:")) {
      data.push(line.slice(line[5] === " " ? 6 : 5));
    }
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      // A carriage return at a chunk's end may be half of a line's end.
      const parts = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = parts.pop();
      yield* parts;
    }
  } finally {
    // Whoever stops reading stops the server, too.
    await reader.cancel().catch(() => {});
  }
}
