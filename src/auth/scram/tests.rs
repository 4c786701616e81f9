//! The example of RFC 7677 in both roles, and what must be refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Binding, Client, ClientFirst, Mechanism, ScramError, Server, Verifier};
use crate::{crypto::Secret, tenant::ScramVerifier};

const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_LAST: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

fn verifier() -> ScramVerifier {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    ScramVerifier::derive_with("pencil", salt, 4096)
}

#[test]
fn rfc_example_holds_in_both_roles() {
    let (client, first) =
        Client::begin_with("user", "rOprNGfwEbeRWgbNEkqO".into(), Binding::Unavailable);
    assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let parsed = ClientFirst::parse(&first).unwrap();
    let (server, answer) =
        Server::begin_with(&parsed, verifier().into(), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    assert_eq!(answer, SERVER_FIRST);
    let finish = client.answer(&answer, &secret("pencil"), None).unwrap();
    assert_eq!(finish.message, CLIENT_LAST);
    assert_eq!(server.finish(&finish.message).unwrap(), SERVER_LAST);
    finish.check(SERVER_LAST).unwrap();
    assert_eq!(finish.check("v=AAAA"), Err(ScramError::ServerMismatch));
    assert_eq!(finish.check("e=other-error"), Err(ScramError::Refused));
}

#[test]
fn example_of_rfc_5802_holds_with_sha_1() {
    let nonce = "fyko+d2lbbFgONRv9qkxdawL";
    let (client, first) = Client::begin_with("user", nonce.into(), Binding::Unavailable);
    assert_eq!(first, "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
    let client = client.by(Mechanism::Sha1);
    let answer = "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096";
    let finish = client.answer(answer, &secret("pencil"), None).unwrap();
    assert_eq!(
        finish.message,
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
    );
    finish.check("v=rmF9pqV8S7suAoZWja4dJRkFsKQ=").unwrap();
}

#[test]
fn sha_1_holds_in_both_roles_and_with_its_own_hash_only() {
    for (mechanism, password, expected) in [
        (Mechanism::Sha1, "digest", None),
        (Mechanism::Sha1, "digests", Some(ScramError::Mismatch)),
        (
            Mechanism::Sha256,
            "digest",
            Some(ScramError::Malformed("proof")),
        ),
    ] {
        let (client, first) = Client::begin_as(mechanism, "user").unwrap();
        let parsed = ClientFirst::parse(&first).unwrap();
        let verifier = Verifier::derive_sha1("digest", vec![7; 16]);
        let (server, answer) = Server::begin(&parsed, verifier).unwrap();
        let finish = client.answer(&answer, &secret(password), None).unwrap();
        match (server.finish(&finish.message), expected) {
            (Ok(last), None) => finish.check(&last).unwrap(),
            (outcome, expected) => assert_eq!(outcome.err(), expected),
        }
    }
}

#[test]
fn wrong_password_and_mock_verifier_are_mismatches() {
    for (verifier, password) in [
        (verifier(), "pencils"),
        (ScramVerifier::mock("nobody", &[7; 32]), "pencil"),
    ] {
        let (client, first) = Client::begin("user").unwrap();
        let parsed = ClientFirst::parse(&first).unwrap();
        let (server, answer) = Server::begin(&parsed, verifier).unwrap();
        let finish = client.answer(&answer, &secret(password), None).unwrap();
        assert_eq!(server.finish(&finish.message), Err(ScramError::Mismatch));
    }
}

#[test]
fn known_salt_needs_no_second_derivation() {
    let (client, _) =
        Client::begin_with("user", "rOprNGfwEbeRWgbNEkqO".into(), Binding::Unavailable);
    let salted = client
        .answer(SERVER_FIRST, &secret("pencil"), None)
        .unwrap()
        .salted;
    let (client, _) =
        Client::begin_with("user", "rOprNGfwEbeRWgbNEkqO".into(), Binding::Unavailable);
    let finish = client
        .answer(SERVER_FIRST, &secret("not needed"), Some(&salted))
        .unwrap();
    assert_eq!(finish.message, CLIENT_LAST);
}

#[test]
fn names_are_unescaped_and_nonsense_is_refused() {
    assert_eq!(
        ClientFirst::parse("n,,n=a=2Cb=3Dc,r=x").unwrap().user,
        "a,b=c"
    );
    for text in [
        "",
        "n",
        "n,,",
        "n,,n=a",
        "n,,n=a=2c,r=x",
        "n,a=b,n=u,r=x",
        "x,,n=u,r=x",
        "n,,m=1,n=u,r=x",
    ] {
        assert!(
            matches!(ClientFirst::parse(text), Err(ScramError::Malformed(_))),
            "{text}"
        );
    }
    let wanted = ClientFirst::parse("p=tls-server-end-point,,n=u,r=x");
    assert_eq!(wanted, Err(ScramError::ChannelBinding));
    let hostile = "r=abcd,s=AAAA,i=4294967295";
    let (client, _) = Client::begin_with("u", "abc".into(), Binding::Unavailable);
    assert!(client.answer(hostile, &secret("p"), None).is_err());
}

#[test]
fn binding_ties_both_sides_to_one_certificate() {
    let run = |ours: Binding<'_>, theirs: Binding<'_>| {
        let (client, first) = Client::begin_bound("", ours)?;
        let parsed = ClientFirst::parse_bound(&first, theirs)?;
        let (server, answer) = Server::begin(&parsed, verifier())?;
        let finish = client.answer(&answer, &secret("pencil"), None)?;
        finish.check(&server.finish(&finish.message)?)
    };
    let (mine, other) = (Binding::EndPoint(b"hash"), Binding::EndPoint(b"hosh"));
    assert_eq!(run(mine, mine), Ok(()));
    assert_eq!(run(Binding::Unused, Binding::Unavailable), Ok(()));
    assert_eq!(run(Binding::Unavailable, Binding::Unused), Ok(()));
    // Somebody between with a certificate of their own.
    assert_eq!(
        run(mine, other),
        Err(ScramError::Malformed("channel binding"))
    );
    // Somebody between who took the offer away.
    assert_eq!(
        run(Binding::Unused, Binding::Unused),
        Err(ScramError::ChannelBinding)
    );
    assert_eq!(run(mine, Binding::Unused), Err(ScramError::ChannelBinding));
    assert_eq!(
        run(Binding::Unavailable, mine),
        Err(ScramError::ChannelBinding)
    );
}
