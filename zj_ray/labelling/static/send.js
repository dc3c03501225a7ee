// One way to send: JSON with the session's CSRF token. After a network failure it is sent again, which is safe: a
// ranking carries a key.
const TRIES = 5, PAUSE = 2000;

export async function send(path, csrf, body, onOffline = () => {}) {
  for (let tried = 1; ; tried++) {
    try {
      const headers = { "Content-Type": "application/json", "X-CSRF": csrf }, signal = AbortSignal.timeout(15000);
      const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
      const answer = await response.json().catch(() => ({}));
      if (!response.ok) throw Object.assign(new Error(answer.error ?? `${response.status}`), { refused: true });
      return answer;
    } catch (fault) {
      if (fault.refused || tried === TRIES) throw fault;
      onOffline();
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}
