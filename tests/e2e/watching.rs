//! Files that change are taken up by themselves, in whatever way they are changed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use crate::support::{Gateway, Issuer, Site, Upstream, request, until};
use crate::tls::{Authority, Certificate, Client, protect};

fn watching(upstream: &Upstream) -> Site {
    let mut site = Site::new(upstream);
    site.set("/reload", json!({"watch": true, "debounce": "50ms"}));
    site
}

fn reloads(gateway: &Gateway, result: &str) -> f64 {
    gateway.admin().metric("portcullis_config_reloads_total", &[("result", result)])
}

fn shown(gateway: &Gateway, authority: &Authority) -> Vec<u8> {
    let mut stream = Client::new(authority, None).connect_for(gateway, "shop.example");
    stream.write_all(&request("GET", "/public/", &[("Connection", "close")], b"")).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn the_configuration_and_what_it_names_are_taken_up() {
    let upstream = Upstream::start();
    let mut site = watching(&upstream);
    let gateway = site.start();
    let public =
        |name: &str| json!({"name": name, "match": {"path": format!("/{name}/")}, "upstream": "shop", "auth": "none"});
    site.route(public("written"));
    site.write_config();
    until("the route of the file that was written", || (gateway.get("/written/", &[]).status == 200).then_some(()));

    // An editor writes another file, and puts it in the place of the first.
    site.route(public("replaced"));
    site.write("portcullis.yaml.new", &site.config.to_string());
    fs::rename(site.file("portcullis.yaml.new"), site.file("portcullis.yaml")).unwrap();
    until("the route of the file that took its place", || (gateway.get("/replaced/", &[]).status == 200).then_some(()));

    let successor = Issuer::new(&site.accounts.url, "accounts-2", crate::support::issuer::Key::es256());
    site.write("accounts.jwks.json", &successor.jwks().to_string());
    let token = successor.token_of("bob");
    until("the new key", || (gateway.get_as("/orders", &token).status == 200).then_some(()));
    assert_eq!(reloads(&gateway, "failed"), 0.0);
    assert_eq!(reloads(&gateway, "ok"), 3.0, "what is read and is the same is not taken up");
}

#[test]
fn what_is_half_written_is_tried_again_and_changes_nothing_until_then() {
    let upstream = Upstream::start();
    let mut site = watching(&upstream);
    let gateway = site.start();
    site.route(json!({"name": "new", "match": {"path": "/new/"}, "upstream": "shop", "auth": "none"}));
    site.set("/admin/tokens/1/secret/file", json!("later/eyes"));
    let whole = site.config.to_string();
    site.write("portcullis.yaml", &whole[..whole.len() / 2]);
    until("the half to be refused", || (reloads(&gateway, "failed") == 1.0).then_some(()));
    assert_eq!(gateway.admin().metric("portcullis_config_last_reload_successful", &[]), 0.0);
    assert_eq!((gateway.get("/public/", &[]).status, gateway.get("/new/", &[]).status), (200, 401));
    // Whole, and it names a file in a folder that is not there.
    site.write("portcullis.yaml", &whole);
    until("the whole to be refused", || (reloads(&gateway, "failed") == 2.0).then_some(()));
    fs::create_dir(site.file("later")).unwrap();
    site.write_secret("later/eyes", b"a-secret-that-comes-later-0123456789abcdef");
    until("the new route", || (gateway.get("/new/", &[]).status == 200).then_some(()));
    assert_eq!(gateway.admin().metric("portcullis_config_last_reload_successful", &[]), 1.0);
}

/// A ConfigMap or a Secret is a folder of links through `..data`, which is replaced by another one.
#[test]
fn a_link_that_all_files_lie_behind_is_followed_to_where_it_leads_now() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = watching(&upstream);
    protect(&mut site, &authority);
    site.set("/listeners/0/tls/certificate", json!("mounted/server.pem"));
    site.set("/listeners/0/tls/key", json!("mounted/server.key"));
    let put = |folder: &str, certificate: &Certificate| certificate.put_as(&site, &format!("mounted/{folder}/server"));
    let first = authority.issue("shop.example");
    put("..1", &first);
    for name in ["server.pem", "server.key"] {
        symlink(format!("..data/{name}"), site.file(&format!("mounted/{name}"))).unwrap();
    }
    symlink("..1", site.file("mounted/..data")).unwrap();
    let gateway = site.start();
    assert_eq!(shown(&gateway, &authority), first.der.to_vec());
    for version in 2..5 {
        let next = authority.issue("shop.example");
        put(&format!("..{version}"), &next);
        symlink(format!("..{version}"), site.file("mounted/..data_tmp")).unwrap();
        fs::rename(site.file("mounted/..data_tmp"), site.file("mounted/..data")).unwrap();
        until("the next certificate", || (shown(&gateway, &authority) == next.der.to_vec()).then_some(()));
        fs::remove_dir_all(site.file(&format!("mounted/..{}", version - 1))).unwrap();
    }
    assert_eq!(reloads(&gateway, "failed"), 0.0);
}

#[test]
fn a_secret_that_others_could_change_is_taken_up_once_they_cannot() {
    let upstream = Upstream::start();
    let mut site = watching(&upstream);
    let gateway = site.start();
    site.route(json!({"name": "new", "match": {"path": "/new/"}, "upstream": "shop", "auth": "none"}));
    fs::set_permissions(site.file("secrets/eyes"), fs::Permissions::from_mode(0o666)).unwrap();
    site.write_config();
    until("it to be refused", || (reloads(&gateway, "failed") >= 1.0).then_some(()));
    fs::set_permissions(site.file("secrets/eyes"), fs::Permissions::from_mode(0o600)).unwrap();
    until("the new route", || (gateway.get("/new/", &[]).status == 200).then_some(()));
}

#[test]
fn nothing_is_taken_up_by_itself_where_that_is_off() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/reload", json!({"watch": false, "debounce": "1ms"}));
    let gateway = site.start();
    site.route(json!({"name": "new", "match": {"path": "/new/"}, "upstream": "shop", "auth": "none"}));
    site.set("/reload/watch", json!(true));
    site.write_config();
    // By call it is, and from then on by itself.
    assert_eq!(gateway.get("/new/", &[]).status, 401);
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).json()["changed"], true, "nobody else did");
    site.route(json!({"name": "newer", "match": {"path": "/newer/"}, "upstream": "shop", "auth": "none"}));
    site.write_config();
    until("the newer route", || (gateway.get("/newer/", &[]).status == 200).then_some(()));
}
