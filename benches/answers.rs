//! How many instructions nginx executes for an answer that the module looks at: NPM's page, which gets a
//! script, and a large asset, which does not. Beside them `sub_filter`, with which one could put the same
//! script into the page.

use testbed::nginx::Builder;

use crate::instructions::{accounts, can_count, npm, IDLE_THREAD};
use crate::upstream::ASSET_LEN;
use crate::{callgrind, table, upstream};

/// The length of the module's own script, and one to match.
const SUB_FILTER: &str = "sub_filter '</title>' '</title><script>SCRIPT</script>';";
const SCRIPT_LEN: usize = 900;

pub fn run() {
    if !can_count() {
        return;
    }
    let (upstream, npm) = (upstream::start(), npm());
    // All with a second thread, of which an asset's many system calls would say more than of all else.
    let host = upstream::host(&upstream).main(IDLE_THREAD).accounts(&accounts(&npm));
    let sub_filter = SUB_FILTER.replace("SCRIPT", &"s".repeat(SCRIPT_LEN));
    let on = "npm_token_inject accounts.json;";
    let page = |line: &str| count(&host, line, "/", [100, 400]);
    let asset = |line: &str| count(&host, line, "/assets/index-BqX1.js", [10, 40]);
    let everywhere = format!("{sub_filter} sub_filter_types *;");
    let rows = [
        ("nothing", page("npm_token_inject off;"), asset("npm_token_inject off;")),
        ("`sub_filter`", page(&sub_filter), asset(&sub_filter)),
        ("`sub_filter`, `sub_filter_types *`", page(&everywhere), asset(&everywhere)),
        ("`npm_token_inject on`", page(on), asset(on)),
        ("`npm_token_inject on browser=off`", page(OFF), asset(OFF)),
    ];
    let nothing = (rows[0].1, rows[0].2);
    let rows = rows.map(|(name, page, asset)| {
        let more = |count: u64, nothing: u64| format!("{:+}", count as i64 - nothing as i64);
        vec![
            name.to_owned(),
            table::count(page),
            more(page, nothing.0),
            table::count(asset),
            more(asset, nothing.1),
        ]
    });
    table::print(
        &format!("Instructions for NPM's page, and for an asset of {ASSET_LEN} bytes"),
        &["in the location", "page", "more than nothing", "asset", "more than nothing"],
        &rows,
    );
}

const OFF: &str = "npm_token_inject accounts.json browser=off;";

fn count(host: &Builder, line: &str, target: &str, runs: [u64; 2]) -> u64 {
    let host = host.clone().directive(line);
    callgrind::cost(&host, runs, |client, _| {
        let accept = if target == "/" { "text/html,application/xhtml+xml,*/*" } else { "*/*" };
        client
            .request("GET", target)
            .header("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101")
            .header("Accept", accept)
            .send()
    })
    .total
}
