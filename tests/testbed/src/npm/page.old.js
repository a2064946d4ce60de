// NPM's web UI up to 2.12, as far as its tokens go.

const KEY = "nginx-proxy-manager-tokens";

const read = () => JSON.parse(localStorage.getItem(KEY)) ?? [];
const write = (list) => localStorage.setItem(KEY, JSON.stringify(list));

const api = async (method, path) => {
  const headers = { Authorization: `Bearer ${read()[0]?.t ?? null}` };
  const answer = await fetch(`/api/${path}`, { method, headers });
  const json = await answer.json();
  if (!answer.ok) throw new Error(json.error.message);
  return json;
};

const refresh = async () => {
  const { token } = await api("GET", "tokens");
  const [first, ...rest] = read();
  write([{ ...first, t: token }, ...rest]);
};

const signInAs = async (user) => {
  const { token } = await api("POST", `users/${user.id}/login`);
  write([{ t: token, n: user.name }, ...read()]);
  location.reload();
};

const logOut = () => {
  const rest = read().slice(1);
  write(rest);
  location.reload();
};

const root = document.getElementById("root");

const show = async () => {
  await refresh();
  root.innerHTML = `<p id="user"></p><button id="logout">Logout</button><ul></ul>`;
  root.querySelector("#logout").onclick = logOut;
  const me = await api("GET", "users/me");
  const users = me.roles.includes("admin") ? await api("GET", "users") : [];
  for (const user of users) {
    const button = document.createElement("button");
    button.textContent = `Sign in as ${user.email}`;
    button.onclick = () => signInAs(user);
    root.querySelector("ul").append(button);
  }
  root.querySelector("#user").textContent = me.email;
};

window.npm = { api, refresh };
show().catch(() => (root.innerHTML = `<form id="login"></form>`));
