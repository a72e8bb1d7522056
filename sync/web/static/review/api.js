// Calls of the review server. Everything that can go wrong is one of three errors.

/** The server cannot be reached or is in trouble: try again later. `after` is in seconds, where the server said it. */
export class Away extends Error {
  constructor(message, after = null) {
    super(message);
    this.after = after;
  }
}

/** The link of this person does not hold (any more). */
export class Gone extends Error {
  constructor(said) {
    super(said.error || "This link does not work.");
    this.hint = said.hint || "";
    this.field = said.field || "";
  }
}

/** The server understood and said no. */
export class Refused extends Error {
  constructor(said, status) {
    super(said.error || `The server answered ${status}.`);
    this.hint = said.hint || "";
    this.status = status;
  }
}

const TIMEOUT_MS = 20000;
let person = null;

async function call(path, body = null) {
  const options = { credentials: "same-origin", cache: "no-store", headers: { Accept: "application/json" } };
  // when another person's link was opened in this browser, the server must not take this page for theirs
  if (person !== null) options.headers["X-Groundswell-Person"] = person;
  if (body !== null) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
    options.headers["X-Groundswell"] = "1";
    options.keepalive = options.body.length < 50000; // an answer on its way outlives the page
  }
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), TIMEOUT_MS);
  try {
    const response = await fetch(new URL(`api/${path}`, document.baseURI), { ...options, signal: stop.signal });
    const said = await response.json().catch(() => ({}));
    if (response.ok) return said;
    if (response.status === 401 || (response.status === 409 && said.field === "person")) throw new Gone(said);
    const after = Number(response.headers.get("Retry-After")) || null;
    if (response.status === 429) throw new Away("The server asks to go slower.", after ?? 5);
    if (response.status >= 500) throw new Away(said.error || "The server is in trouble.", after);
    throw new Refused(said, response.status);
  } catch (error) {
    if (error instanceof Away || error instanceof Gone || error instanceof Refused) throw error;
    throw new Away("No connection to the server.");
  } finally {
    clearTimeout(timer);
  }
}

const query = (values) => new URLSearchParams(values).toString();

/** Who is it, and what may they review? All further calls are made in this person's name. */
export async function me() {
  person = null;
  const said = await call("me");
  person = said.id;
  return said;
}
export const cards = (stream, n, have, order, shown) => call(`cards?${query({ stream, n, have: have.join(","), order, shown })}`);
export const send = (answers, shown) => call("answers", { answers, shown });
/** Cards that nobody looked at here: others may have them. The request outlives the page. */
export const giveBack = (cards) => call("give-back", { cards });
export const undo = (card) => call("undo", { card });
export const stats = (stream) => call(`stats?${query({ stream })}`);
