//! The admin token's file: made at the first start, readable by its owner only.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::crypto::{Secret, create_private, random_text};

/// The file within a data directory.
pub fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.token")
}

/// Reads the token, or makes it. Tells whether it was made.
///
/// # Errors
/// When the file cannot be read or made, or is empty.
pub fn load_or_create_token(data_dir: &Path) -> io::Result<(Secret, bool)> {
    let path = token_file(data_dir);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => {
            Err(io::Error::other(format!("{} is empty", path.display())))
        }
        Ok(text) => Ok((Secret::from(text.trim().to_owned()), false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = random_text().map_err(io::Error::other)?;
            let token = Secret::from(format!("ppat_{}", token.expose()));
            create_private(&path, format!("{}\n", token.expose()).as_bytes())?;
            Ok((token, true))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn token_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let (first, made) = load_or_create_token(folder.path()).unwrap();
        let (second, again) = load_or_create_token(folder.path()).unwrap();
        assert!(made && !again && first.expose() == second.expose());
        let metadata = fs::metadata(token_file(folder.path())).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
}
