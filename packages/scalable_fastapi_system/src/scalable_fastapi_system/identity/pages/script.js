"use strict";
{
  const form = document.querySelector("form");
  const fields = form.elements;
  const button = form.querySelector("button");
  const outcome = document.getElementById("outcome");
  const isReset = form.id === "reset";
  const token = new URLSearchParams(location.hash.slice(1)).get("token");

  // It belongs neither into the history nor into what is copied from the address bar.
  if (location.hash) history.replaceState(null, "", location.pathname);
  // The link of another message, put into the address bar of this page.
  addEventListener("hashchange", () => location.reload());

  const say = (kind, ...lines) => {
    outcome.className = kind;
    outcome.replaceChildren(
      ...lines.map((line) => {
        const paragraph = document.createElement("p");
        paragraph.textContent = line;
        return paragraph;
      }),
    );
  };

  const fail = (answer, told) => {
    const problems = (told.problems ?? []).map((problem) => problem.message);
    const lines = problems.length > 0 ? problems : [told.message ?? `The answer was ${answer.status}: try again later.`];
    const id = told.request_id ?? answer.headers.get("x-request-id");
    say("failure", ...lines, ...(id ? [`Request id: ${id}`] : []));
  };

  const send = async (event) => {
    event.preventDefault();
    if (isReset && fields.new_password.value !== fields.again.value) {
      say("failure", "The two passwords are not the same.");
      fields.again.focus();
      return;
    }
    const body = isReset ? { token, new_password: fields.new_password.value } : { email: fields.email.value };
    button.disabled = true;
    say("", "One moment …");
    try {
      const answer = await fetch(location.pathname, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      const told = await answer.json().catch(() => ({}));
      if (answer.ok) {
        form.reset();
        form.hidden = true;
        say("success", told.message);
      } else {
        fail(answer, told);
      }
    } catch {
      say("failure", "No answer came: try again.");
    } finally {
      button.disabled = false;
    }
  };

  form.addEventListener("submit", send);
  if (isReset && !token) {
    say("failure", "This page is opened by the link in the message. Open the link once more, or ask for a new one.");
  } else {
    form.hidden = false;
  }
}
