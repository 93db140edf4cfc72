"use strict";
const output = document.getElementById("output"), list = document.getElementById("events");
let csrf = null;

// A session from a token: from then on the cookie says who calls, and each change shows the session's own word.
async function openSession(token) {
    const reply = await fetch("/session", {method: "POST", headers: {Authorization: `Bearer ${token}`}});
    if (!reply.ok) throw new Error((await reply.json()).detail);
    csrf = (await reply.json()).csrf_token;
}

// The browser comes back by itself, from where it was; "gap" says that something was missed meanwhile.
function follow() {
    const events = new EventSource("/events?type=bottle.*");
    const add = words => list.appendChild(document.createElement("li")).textContent = words;
    events.onopen = () => { document.body.dataset.follows = "yes"; };
    events.onmessage = message => {
        const event = JSON.parse(message.data);
        add(`${event.slug} ${event.type}`);
    };
    events.addEventListener("gap", () => add("some events were lost: look at GET /bottles"));
}

async function* lines(body) {
    let rest = "";
    for await (const text of body.pipeThrough(new TextDecoderStream())) {
        const whole = (rest + text).split("\n");
        rest = whole.pop();
        for (const line of whole) yield JSON.parse(line);
    }
}

async function run(command) {
    const headers = {"Content-Type": "application/json", Accept: "application/x-ndjson", "X-CSRF-Token": csrf};
    const plan = JSON.stringify({command: ["sh", "-c", command]});
    const reply = await fetch("/bottles?start=true&wait=exited", {method: "POST", headers, body: plan});
    if (!reply.ok) throw new Error((await reply.json()).detail);
    let last;
    for await (last of lines(reply.body))
        if ("data" in last) output.append(last.data);
    output.append(`exit code ${last.exit_code}\n`);
    await fetch(reply.headers.get("Location"), {method: "DELETE", headers: {"X-CSRF-Token": csrf}});
}

document.getElementById("run").addEventListener("submit", async event => {
    event.preventDefault();
    const form = event.target.elements;
    try {
        if (!csrf) {
            await openSession(form.token.value);
            follow();
        }
        await run(form.command.value);
    } catch (error) {
        output.append(`${error.message}\n`);
    }
});
