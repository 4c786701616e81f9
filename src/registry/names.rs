//! What names may look like, and how a slug is made from one.

use super::RegistryError;

/// Characters of a slug or a ref: one DNS label.
const LABEL_MAX: usize = 63;
/// Characters of a database's display name.
const NAME_MAX: usize = 128;

/// A project's `ref` or a database's slug: a DNS label.
pub(super) fn check_label(field: &'static str, text: &str) -> Result<(), RegistryError> {
    let inner =
        |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    let sound = !text.is_empty()
        && text.len() <= LABEL_MAX
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if sound {
        return Ok(());
    }
    let why = "1 to 63 lower-case letters, digits and '-', not at the ends";
    Err(invalid(field, why))
}

/// A display name.
pub(super) fn check_name(field: &'static str, text: &str) -> Result<(), RegistryError> {
    if text.trim().is_empty() || text.len() > NAME_MAX || text.chars().any(char::is_control) {
        return Err(invalid(
            field,
            "1 to 128 characters, none of them a control character",
        ));
    }
    Ok(())
}

/// A user's name: what every protocol and every URL can carry as it is.
pub(super) fn check_user(text: &str) -> Result<(), RegistryError> {
    let plain = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'_' | b'-' | b'.');
    if text.is_empty() || text.len() > LABEL_MAX || !text.bytes().all(plain) {
        return Err(invalid(
            "username",
            "1 to 63 letters, digits, '_', '-' and '.'",
        ));
    }
    Ok(())
}

/// The slugs to try for a new database, best first.
pub(super) fn slug_candidates<'a>(
    name: &str,
    kind: &'a str,
    project_ref: &'a str,
) -> impl Iterator<Item = String> + use<'a> {
    let base = match label_from(name) {
        label if label.is_empty() => label_from(kind),
        label => label,
    };
    let own = base.clone();
    let named = [kind, project_ref]
        .into_iter()
        .map(move |suffix| joined(&own, &label_from(suffix)));
    let counted = base.clone();
    std::iter::once(base)
        .chain(named)
        .chain((2..).map(move |count: u32| joined(&counted, &count.to_string())))
}

/// The DNS label nearest to a text; empty when nothing of it is left.
pub(super) fn label_from(text: &str) -> String {
    let mut label = String::new();
    for letter in text.chars() {
        if label.len() == LABEL_MAX {
            break;
        }
        if letter.is_ascii_alphanumeric() {
            label.push(letter.to_ascii_lowercase());
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.trim_end_matches('-').to_owned()
}

/// Half of the room at least stays with the base.
fn joined(base: &str, suffix: &str) -> String {
    let suffix: String = suffix.chars().take(LABEL_MAX / 2).collect();
    let room = LABEL_MAX - LABEL_MAX / 2 - 1;
    let kept: String = base.chars().take(room).collect();
    format!(
        "{}-{}",
        kept.trim_end_matches('-'),
        suffix.trim_matches('-')
    )
}

fn invalid(field: &'static str, why: &str) -> RegistryError {
    RegistryError::Invalid {
        field,
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_dns_labels_whatever_the_name() {
        let names = [
            "Production MongoDB",
            "--a__b--",
            "ключ",
            &"x".repeat(200),
            "a.b",
        ];
        for name in names {
            for slug in slug_candidates(name, "bun_api", &"r".repeat(63)).take(5) {
                check_label("slug", &slug).unwrap();
            }
        }
        let mut slugs = slug_candidates("Cache!", "redis", "acme");
        assert_eq!(slugs.next().unwrap(), "cache");
        assert_eq!(slugs.next().unwrap(), "cache-redis");
        assert_eq!(slugs.next().unwrap(), "cache-acme");
        assert_eq!(slugs.next().unwrap(), "cache-2");
    }

    #[test]
    fn bad_labels_are_refused() {
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(check_label("ref", bad).is_err(), "{bad}");
        }
        assert!(check_user("a b").is_err() && check_user("app.one").is_ok());
    }
}
