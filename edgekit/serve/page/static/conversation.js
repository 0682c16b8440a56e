// What was asked and answered, and how it is put to the server again with each question: it remembers nothing.

const CUT = "\n\n[This answer was cut off here: it is not complete.]";

/** One question and its answer. */
export class Turn {
  answer = "";
  thoughts = "";
  ended = null; // the server's finish_reason, `stopped` by the user, or `failed`
  warnings = [];
  timings = null;

  constructor(model, question, picture) {
    this.model = model;
    this.question = question;
    this.picture = picture;
  }

  /** Whether the model ended its answer itself, and all of it came. */
  get whole() {
    return this.ended === "stop";
  }

  /** Take what a streamed document adds; says whether anything came. */
  take(document) {
    const [choice] = document.choices;
    this.answer += choice?.delta.content ?? "";
    this.thoughts += choice?.delta.reasoning_content ?? "";
    this.ended = choice?.finish_reason ?? this.ended;
    this.warnings.push(...(document.warnings ?? []));
    this.timings = document.timings ?? this.timings;
  }
}

/** The messages of a conversation, every image under the name that the server gave it. */
export async function messages(turns, api, model) {
  const all = turns.flatMap((turn) => [question(turn, api, model), ...(turn.answer ? [reply(turn)] : [])]);
  return Promise.all(all);
}

async function question(turn, api, model) {
  if (!turn.picture) return { role: "user", content: turn.question };
  const { url } = await turn.picture.handOver(api, model);
  const image = { type: "image_url", image_url: { url } };
  return { role: "user", content: [image, { type: "text", text: turn.question }] };
}

/** What is not complete says so to the model as well, which would take it for all there is to say. */
function reply(turn) {
  return { role: "assistant", content: turn.whole ? turn.answer : turn.answer + CUT };
}
