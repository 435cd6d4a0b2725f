use super::*;
use crate::auth::scram::Algorithm;

fn verifies(text: &str, password: &str) {
    let hash = PasswordHash::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(hash.verify(password.as_bytes()), "{text}");
    for wrong in ["", "Secret", "secret ", "secre"] {
        assert!(!hash.verify(wrong.as_bytes()), "{text} took {wrong:?}");
    }
}

fn refused(text: &str, because: &str) {
    let Err(why) = PasswordHash::parse(text) else { panic!("{text} was taken") };
    assert!(why.contains(because), "{text}: {why}");
}

/// Written by mosquitto_passwd 2.0.11 for the password `secret`.
const MOSQUITTO_7: &str =
    "$7$101$jUEMRfy5lEhZgB2a$/oPlZmr8l0Uq0HXJfl69r70GCVEw976Njpp1zihBf4YWnfQtUIn6X7dCkM+FlQFFfTPHfiJ3kSbBCoryc78eiQ==";
const MOSQUITTO_6: &str = "$6$jg3AFTxt4XXFOq6F$4ZFtVS1ZN9JR2RhzpDxe2/lbhT6YWNH1wyrn2ucbzHmpGqBYfseaPzUBduE2D57VrqdD+K+sTNzFxRpXsYNEuw==";

#[test]
fn hashes_of_mosquitto_passwd_verify() {
    verifies(MOSQUITTO_7, "secret");
    verifies(MOSQUITTO_6, "secret");
}

#[test]
fn a_new_hash_verifies_and_never_repeats() {
    let text = hash_password("secret");
    assert!(text.starts_with("$argon2id$v=19$m=8192,t=3,p=1$"), "{text}");
    assert_ne!(text, hash_password("secret"));
    verifies(&text, "secret");
}

#[test]
fn argon2id_of_another_implementation_verifies() {
    // From the test vectors of the reference C implementation (phc-winner-argon2, src/test.c): 2^8 KiB, two passes, one lane.
    let text = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    assert!(PasswordHash::parse(text).unwrap().verify(b"password"));
    assert!(!PasswordHash::parse(text).unwrap().verify(b"passwore"));
}

#[test]
fn rabbitmq_hashes_verify() {
    for (name, hash) in [
        ("sha256", {
            let salt = [0x90, 0x8d, 0xc6, 0x0a];
            [salt.to_vec(), Sha256::new().chain_update(salt).chain_update("secret").finalize().to_vec()].concat()
        }),
        ("sha512", {
            let salt = [1, 2, 3, 4];
            [salt.to_vec(), Sha512::new().chain_update(salt).chain_update("secret").finalize().to_vec()].concat()
        }),
        ("md5", {
            let salt = [5, 6, 7, 8];
            [salt.to_vec(), md5::Md5::new().chain_update(salt).chain_update("secret").finalize().to_vec()].concat()
        }),
    ] {
        verifies(&format!("{{rabbit_password_hashing_{name}}}{}", STANDARD.encode(hash)), "secret");
    }
    // Exported by a RabbitMQ server for the password `1` (stackoverflow.com/q/41306350).
    let exported = PasswordHash::parse("{rabbit_password_hashing_sha256}y4xPTRVfzXg68sz9ALqeQzARam3CwnGo53xS752cDV5+Utzh").unwrap();
    assert!(exported.verify(b"1"));
    assert!(!exported.verify(b"2"));
}

#[test]
fn a_scram_verifier_checks_a_password_too() {
    let verifier = Verifier::derive(Algorithm::Sha256, b"secret", &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096);
    verifies(&verifier.to_string(), "secret");
}

#[test]
fn what_is_not_known_is_refused_with_a_reason() {
    refused("", "unknown form");
    refused("secret", "goes under `password`");
    refused("$2b$12$abcdefghijklmnopqrstuv", "bcrypt");
    refused("$argon2i$v=19$m=8192,t=3,p=1$c29tZXNhbHQ$nf65", "only argon2id");
    refused("$argon2id$v=19$m=8192,t=3,p=1$c29tZXNhbHQ", "hash is missing");
    refused("$argon2id$v=19$m=4194304,t=3,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "over m=");
    refused("$argon2id$v=19$m=8192,t=3,p=1$c2Fs$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "salt");
    refused("$7$0$AAAA$AAAA", "iterations");
    refused("$7$4000000000$AAAA$AAAA", "iterations");
    refused("$7$101$AAAA$AAAA", "has 3 bytes, not 64");
    refused("$7$101$AAAA", "$7$iterations$salt$hash");
    refused("$6$rounds=5000$saltsalt$0123", "crypt(3)");
    refused("{rabbit_password_hashing_md5}AAAA", "not 20");
    refused("{rabbit_password_hashing_sha3}AAAA", "unknown hashing algorithm");
    refused("{rabbit_password_hashing_sha256}AAAAAAAA", "not 36");
    refused("SCRAM-SHA-256$4096:c2FsdA==$AAAA:AAAA", "32 bytes");
    refused("SCRAM-SHA-256$1:c2FsdA==$AAAA:AAAA", "iterations");
    refused("{SCRAM-SHA-256}4096,c2FsdA==", "{SCRAM-SHA-256}");
}

#[test]
fn a_reason_never_repeats_the_hash() {
    for text in ["hunter2hunter2", "$7$101$hunter2hunter2", "$2b$12$hunter2hunter2", "{hunter2hunter2}"] {
        let why = PasswordHash::parse(text).err().expect("refused");
        assert!(!why.contains("hunter2"), "{why}");
    }
}
