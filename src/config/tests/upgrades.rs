//! Which protocols a route may let connections change to.

use super::*;

fn with(upgrades: &str) -> Result<Loaded, Problems> {
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nupstreams: {{ shop: {{ servers: [http://127.0.0.1:3000] }} }}\n\
         routes: [{{ match: {{ path: / }}, upstream: shop, auth: none{upgrades} }}]\n"
    );
    read(&text, folder().path())
}

#[test]
fn none_unless_named_and_never_one_that_carries_requests() {
    assert!(with("").unwrap().config.routes[0].upgrades.is_empty());
    let named = with(", upgrades: [WebSocket, chat/2]").unwrap();
    assert_eq!(named.config.routes[0].upgrades, ["websocket", "chat/2"], "names ignore case");
    for (list, wanted) in [
        ("[h2c]", "it would carry requests that no route has judged"),
        ("[HTTP/2.0]", "it would carry requests that no route has judged"),
        ("[TLS/1.0]", "it would carry requests that no route has judged"),
        ("[websocket, WebSocket]", "`routes[0].upgrades[1]` repeats an earlier one"),
        ("[\"web socket\"]", "is not a protocol"),
        ("[\"a/b/c\"]", "is not a protocol"),
        ("[\"websocket, evil\"]", "is not a protocol"),
    ] {
        let problems = with(&format!(", upgrades: {list}")).map(drop).unwrap_err().to_string();
        assert!(problems.contains(wanted), "{list}: {problems}");
    }
}
