(function () {
  var isMarker = function (token) { return /^npm-token-inject-/.test(token); };
  var drop = function (key, isOurs) {
    try {
      if (isOurs(JSON.parse(localStorage.getItem(key)))) localStorage.removeItem(key);
    } catch (e) {}
  };
  // Where the markers stand, see the other script. A list without one is of a login by hand.
  drop("authentications", function (list) { return isMarker(list[0].token); });
  drop("nginx-proxy-manager-tokens", function (list) { return isMarker(list[list.length - 1].t); });
})
