// A chat page that asks as fufan's front end does (fufan-chat-web), and shows what it is told.
import { fetchEventSource } from "/npm/@microsoft/fetch-event-source/lib/esm/index";
import { call, remember, token } from "./http.js";

const find = (selector) => document.querySelector(selector);
const notice = (text) => (find("#notice").textContent = text);

let conversation = null;

// Whatever goes wrong is shown.
const on = (element, event, act) =>
  element.addEventListener(event, async (happened) => {
    happened.preventDefault();
    notice("");
    try {
      await act(happened);
    } catch (error) {
      notice(error.message);
    }
  });

on(find("#account"), "submit", async ({ target, submitter }) => {
  const given = { username: target.username.value, password: target.password.value };
  if (submitter.name === "register") {
    remember((await call("POST", "/api/users/register", given)).id);
    notice("registered");
  } else {
    remember((await call("POST", "/api/users/login", { ...given, code: "" })).id);
    location.hash = "#/chat";
  }
});

on(find("#new"), "click", async () => {
  conversation = null;
  find("#bubbles").replaceChildren();
});

on(find("#chat"), "submit", async ({ target }) => {
  const query = target.query.value;
  const models = (await call("GET", "/api/llm_model/list_running_models")).data.models;
  if (conversation === null) {
    const asked = { user_id: token(), name: query, chat_type: "general_chat" };
    conversation = (await call("POST", "/api/conversations", asked)).id;
  }
  bubble("question", query);
  const answer = bubble("answer", "");
  await fetchEventSource("/api/chat", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ query, conversation_id: conversation, model_name: models[0] }),
    onmessage(event) {
      const told = JSON.parse(event.data);
      answer.dataset.messageId ??= told.message_id;
      find(`[data-message-id="${told.message_id}"]`).textContent += told.text;
      if (told.code !== undefined) notice(told.msg);
    },
    onclose() {
      answer.classList.add("closed");
    },
  });
  await list();
});

function bubble(kind, text) {
  const shown = document.createElement("p");
  shown.className = kind;
  shown.textContent = text;
  find("#bubbles").append(shown);
  return shown;
}

async function list() {
  const told = await call("GET", `/api/users/${token()}/conversations?chat_types=general_chat`);
  find("#conversations").replaceChildren(...told.data.map(item));
}

function item({ id, name }) {
  const shown = document.createElement("li");
  shown.dataset.id = id;
  shown.innerHTML = "<input><button class=open>open</button><button class=delete>delete</button>";
  const [input, open, remove] = shown.children;
  input.value = name;
  on(input, "change", async ({ target }) => {
    await call("PUT", `/api/conversations/${id}/update_name`, { name: target.value });
    await list();
  });
  on(open, "click", async () => {
    conversation = id;
    find("#bubbles").replaceChildren();
    for (const turn of (await call("GET", `/api/conversations/${id}/messages`)).data) {
      bubble("question", turn.query);
      bubble("answer", turn.response).dataset.messageId = turn.id;
    }
  });
  on(remove, "click", async () => {
    await call("DELETE", `/api/conversations/${id}`);
    await list();
  });
  return shown;
}

async function show() {
  const inside = location.hash === "#/chat";
  find("#account").hidden = inside;
  find("main").hidden = !inside;
  if (inside) await list().catch((error) => notice(error.message));
}

addEventListener("hashchange", show);
show();
