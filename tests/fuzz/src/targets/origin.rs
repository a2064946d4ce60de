//! Which site started a request.

use ngx_http_npm_token_inject_module::sso::origin::{Provenance, Target};

/// Lines: flags, `Sec-Fetch-Site`, `Sec-Fetch-Mode`, `Sec-Fetch-Dest`, `Origin`, `Accept`, `Host`. A
/// header that is there is written behind a `=`. The flags are the letters r(ead), a(pi), f(rame) and
/// s, for https.
pub fn provenance(data: &[u8]) {
    let mut lines = data.split(|&b| b == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let flags = line();
    let mut header = || line().strip_prefix(b"=");
    let provenance = Provenance {
        fetch_site: header(),
        fetch_mode: header(),
        fetch_dest: header(),
        origin: header(),
        accept: header(),
    };
    let host = header().unwrap_or_default();
    let is_api = flags.contains(&b'a');
    let target = Target {
        is_read: flags.contains(&b'r'),
        path: if is_api { b"/api/users" } else { b"/" },
        may_be_framed: flags.contains(&b'f'),
        is_https: flags.contains(&b's'),
        host,
    };
    let is_own = !provenance.is_cross_site(|| target);
    let Provenance { fetch_site, fetch_mode, fetch_dest, origin, .. } = provenance;

    match fetch_site {
        Some(b"same-origin" | b"none") => {
            // A write tells its origin, which is the host's under one of the schemes.
            if let (true, false, Some(origin)) = (is_own, target.is_read, origin) {
                assert!([false, true].iter().any(|&https| is_of_host(origin, https, host)));
            }
            assert!(is_own || !target.is_read && origin.is_some());
        }
        Some(_) => {
            let is_framed = matches!(fetch_dest, Some(b"iframe" | b"frame"));
            let leads = target.is_read && !is_api && fetch_mode == Some(b"navigate");
            let to_page = fetch_dest == Some(b"document") || is_framed && target.may_be_framed;
            assert_eq!(is_own, leads && to_page);
        }
        None => match origin {
            Some(origin) => assert!(!is_own || is_of_host(origin, target.is_https, host)),
            None => assert!(is_own, "no browser started it"),
        },
    }

    // What a browser says of a page of this host's own.
    if let Some((name, port)) = plain_host(host) {
        let scheme = if target.is_https { "https" } else { "http" };
        let default = if target.is_https { "443" } else { "80" };
        let port = port.filter(|port| *port != default).map(|port| format!(":{port}"));
        let own = format!("{scheme}://{}{}", name.to_ascii_lowercase(), port.unwrap_or_default());
        for fetch_site in [None, Some(&b"same-origin"[..])] {
            let own = Provenance { fetch_site, origin: Some(own.as_bytes()), ..provenance };
            assert!(!own.is_cross_site(|| target), "{own:?} {target:?}");
        }
    }
}

/// Whether an origin is of that scheme, and names that host and its port.
fn is_of_host(origin: &[u8], https: bool, host: &[u8]) -> bool {
    let lower = |text: &[u8]| text.iter().map(u8::to_ascii_lowercase).collect::<Vec<_>>();
    let (origin, host) = (lower(origin), lower(host));
    let (scheme, default) = if https { ("https://", 443) } else { ("http://", 80) };
    let Some(authority) = origin.strip_prefix(scheme.as_bytes()) else { return false };
    let name_and_port = |authority: &[u8]| {
        let colon = authority.iter().rposition(|&b| b == b':');
        let parts = colon.and_then(|colon| {
            let port = std::str::from_utf8(&authority[colon + 1..]).ok()?.parse::<u16>().ok()?;
            Some((authority[..colon].to_vec(), port))
        });
        parts.unwrap_or((authority.to_vec(), default))
    };
    authority == host || name_and_port(authority) == name_and_port(&host)
}

/// A host as browsers send it: a name or an address, and perhaps a port.
fn plain_host(host: &[u8]) -> Option<(&str, Option<&str>)> {
    let host = std::str::from_utf8(host).ok()?;
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let is_name =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    let is_port = port.is_none_or(|port| {
        port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port)
    });
    (is_name && is_port).then_some((name, port))
}
