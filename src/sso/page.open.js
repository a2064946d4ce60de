(function (token, expires, signOut) {
  try {
    var store = localStorage, current = "authentications", old = "nginx-proxy-manager-tokens";
    var read = function (key) {
      try { return JSON.parse(store.getItem(key)) || []; } catch (e) { return []; }
    };
    var write = function (key, list) { store.setItem(key, JSON.stringify(list)); };

    // NPM 2.13 and newer: the last entry is in use; "Sign in as" appends to the marker.
    var list = read(current);
    if (!list[0] || list[0].token !== token) list = [{}];
    list[0] = { token: token, expires: expires };
    write(current, list);

    // NPM 2.12 and older: the first entry is in use; "Sign in as" puts its own before the marker.
    list = read(old);
    if (!list.length || list[list.length - 1].t !== token) write(old, [{ t: token, n: null }]);

    // The UI's refresh of a "Sign in as" token would leave that token alone in the list, and
    // Logout no way back.
    var storage = Storage.prototype, set = storage.setItem, remove = storage.removeItem;
    storage.setItem = function (key, value) {
      if (this === store && key === current) {
        try {
          var before = read(key), after = JSON.parse(value);
          if (before.length > 1 && before[0].token === token && after.length === 1 &&
              after[0].token !== token)
            value = JSON.stringify(before.slice(0, -1).concat(after));
        } catch (e) {}
      }
      return set.call(this, key, value);
    };

    // A part of the UI does not load: where that is for the session has ended, loading the page
    // anew leads to Authentik. Once a minute, for it may have another cause.
    addEventListener("vite:preloadError", function () {
      var key = "npm-token-inject-reloaded", last = Number(sessionStorage.getItem(key));
      if (Date.now() - last > 60000) {
        sessionStorage.setItem(key, Date.now());
        location.reload();
      }
    });

    // The UI's Logout removes the list and stays on the page; at the end of a session (status 401)
    // it removes the list and reloads.
    if (signOut) {
      var leaving = false;
      addEventListener("beforeunload", function () { leaving = true; });
      storage.removeItem = function (key) {
        remove.call(this, key);
        if (this === store && key === current)
          setTimeout(function () { if (!leaving) location.assign(signOut); }, 100);
      };
    }
  } catch (e) {}
})
