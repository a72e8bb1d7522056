// Posts JSON as only our own pages can, and says in plain words what went wrong.

/** @returns {Promise<any>} the answer; throws an Error whose message people can read */
export async function post(path, body = {}) {
  let reply;
  try {
    reply = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Groundswell": "1" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The server cannot be reached. Try again in a moment.");
  }
  const said = await reply.json().catch(() => ({}));
  if (reply.ok) return said;
  const words = [said.error || `The server answered with ${reply.status}`, said.hint].filter(Boolean);
  if (reply.status === 429) words.push(`Wait ${reply.headers.get("Retry-After") || "some"} seconds.`);
  const error = new Error(words.join(". "));
  error.status = reply.status;
  throw error;
}
