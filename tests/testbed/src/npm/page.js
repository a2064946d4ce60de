// NPM's web UI from 2.13 on, as far as its tokens go.

const KEY = "authentications";
const MARGIN = 60 * 1000;
const REFRESH_INTERVAL = 5 * 60 * 1000;

/** Whether a visit to /login by who is signed in goes to the dashboard, as from 2.16 on. */
const leavesLoginPath = false;

const read = () => {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? [];
  } catch {
    return [];
  }
};
const write = (list) => localStorage.setItem(KEY, JSON.stringify(list));

/** The token in use: the last one, unless it is about to expire. */
const token = () => {
  const list = read();
  const length = list.length;
  while (list.length && new Date(list.at(-1).expires) - Date.now() < MARGIN) list.pop();
  if (list.length < length) write(list);
  return list.at(-1)?.token;
};

const api = async (method, path, body) => {
  const headers = { "Content-Type": "application/json" };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  const answer = await fetch(`/api/${path}`, { method, headers, body: body && JSON.stringify(body) });
  const json = await answer.json();
  if (answer.status === 401) {
    localStorage.removeItem(KEY);
    location.reload();
  }
  if (!answer.ok) throw new Error(json.error.message);
  return json;
};

const refresh = async () => {
  const { token, expires } = await api("GET", "tokens");
  write([{ token, expires }]);
};

const signInAs = async (id) => {
  const { token, expires } = await api("POST", `users/${id}/login`);
  write([...read(), { token, expires }]);
  location.reload();
};

const logOut = () => {
  const list = read();
  if (list.length > 1) {
    write(list.slice(0, -1));
    location.reload();
  } else {
    localStorage.removeItem(KEY);
    show();
  }
};

const logIn = async (form) => {
  const { identity, secret } = Object.fromEntries(new FormData(form));
  const { token, expires } = await api("POST", "tokens", { identity, secret });
  write([{ token, expires }]);
  show();
};

/** The form behind the user's own menu. */
const changePassword = async (form) => {
  await api("PUT", "users/me/auth", { type: "password", ...Object.fromEntries(new FormData(form)) });
  await api("GET", "users/me");
};

const root = document.getElementById("root");

/** What was shown since the page was loaded. */
const shown = [];

const show = async () => {
  if (!token()) {
    shown.push("login");
    root.innerHTML = `<form id="login"><input name="identity"><input name="secret" type="password">
      <button>Sign in</button></form><p id="error"></p>`;
    root.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      logIn(event.target).catch(complain);
    };
    return;
  }
  shown.push("dashboard");
  if (leavesLoginPath && location.pathname === "/login") history.replaceState(null, "", "/");
  root.innerHTML = `<p id="user"></p><button id="logout">Logout</button><ul></ul><p id="error"></p>
    <form id="password"><input name="current" type="password"><input name="secret" type="password">
    <button>Change Password</button></form>`;
  root.querySelector("#logout").onclick = logOut;
  root.querySelector("#password").onsubmit = (event) => {
    event.preventDefault();
    changePassword(event.target).catch(complain);
  };
  const me = await api("GET", "users/me?expand=permissions");
  const users = me.roles.includes("admin") ? await api("GET", "users") : [];
  for (const user of users) {
    const button = document.createElement("button");
    button.textContent = `Sign in as ${user.email}`;
    button.onclick = () => signInAs(user.id).catch(complain);
    root.querySelector("ul").append(button);
  }
  root.querySelector("#user").textContent = me.email;
};

const complain = (error) => (root.querySelector("#error").textContent = error.message);

setInterval(refresh, REFRESH_INTERVAL);
window.npm = { api, refresh, shown };
show().catch(complain);
