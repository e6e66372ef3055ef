//! Where the credentials of S3 come from, in this order: a file or a profile that the location names, the environment,
//! a token of a web identity, the profile of `~/.aws`, a container's service. Whoever wants those of the machine's
//! own service says so, since asking for it takes long where there is none.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use object_store::aws::AmazonS3ConfigKey as Key;

use crate::place::{Place, Source};
use crate::surroundings::Surroundings;

/// No file of credentials is larger.
const MOST_BYTES: u64 = 1 << 20;

/// Why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCredentials {
    #[error(
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put them into ~/.aws/credentials, or \
         name a file with `credentials=FILE`; on a machine whose role may use the bucket write `credentials=instance`"
    )]
    Nowhere,
    #[error("{0} is set and {1} is not: set both, or none")]
    Half(&'static str, &'static str),
    #[error("the file {path:?} cannot be read: {why}")]
    Unreadable { path: PathBuf, why: String },
    #[error("others may read {0:?}, which holds a secret: `chmod 600` it")]
    Open(PathBuf),
    #[error(
        "no profile `{name}` is in {path:?}; `aws configure list-profiles` shows which there are"
    )]
    NoProfile { name: String, path: PathBuf },
    #[error(
        "the profile `{name}` in {path:?} has no aws_access_key_id and aws_secret_access_key of its own; where they come from \
         a role or a login, set them for this run: eval \"$(aws configure export-credentials --profile {name} --format env)\""
    )]
    NoKeys { name: String, path: PathBuf },
    #[error("the certificates in {path:?} cannot be used: {why}")]
    Certificates { path: PathBuf, why: String },
}

/// Credentials that were found.
#[derive(Clone)]
pub(crate) struct Found {
    /// What the client is told.
    pub(crate) settings: Vec<(Key, String)>,
    /// The region that stands beside them.
    pub(crate) region: Option<String>,
    /// Where they were found, for people.
    pub(crate) origin: String,
}

impl Found {
    fn new(
        settings: Vec<(Key, String)>,
        region: Option<String>,
        origin: impl Into<String>,
    ) -> Self {
        let origin = origin.into();
        Self {
            settings,
            region,
            origin,
        }
    }
}

/// Looks for the credentials of a place.
pub(crate) fn find(place: &Place, around: &Surroundings) -> Result<Found, NoCredentials> {
    let region = around.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
    match &place.credentials {
        Some(Source::Instance) => {
            return Ok(Found::new(Vec::new(), region, "the role of this machine"));
        }
        Some(Source::File(path)) => {
            let name = place.profile.as_deref().unwrap_or("default");
            must_be_private(path)?;
            return of_profile(path, None, name, region);
        }
        None => {}
    }
    if let Some(name) = &place.profile {
        return in_home(around, name, region);
    }
    if let Some(found) = of_environment(around, region.clone())? {
        return Ok(found);
    }
    if let Some(name) = around.variable("AWS_PROFILE") {
        return in_home(around, &name, region);
    }
    if let Some(found) = of_token(around, region.clone()) {
        return Ok(found);
    }
    match in_home(around, "default", region.clone()) {
        Err(NoCredentials::Unreadable { .. } | NoCredentials::NoProfile { .. }) => {}
        answer => return answer,
    }
    of_container(around, region).ok_or(NoCredentials::Nowhere)
}

fn of_environment(
    around: &Surroundings,
    region: Option<String>,
) -> Result<Option<Found>, NoCredentials> {
    const ID: &str = "AWS_ACCESS_KEY_ID";
    const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
    let (id, secret) = match (around.variable(ID), around.variable(SECRET)) {
        (Some(id), Some(secret)) => (id, secret),
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(NoCredentials::Half(ID, SECRET)),
        (None, Some(_)) => return Err(NoCredentials::Half(SECRET, ID)),
    };
    let mut settings = vec![(Key::AccessKeyId, id), (Key::SecretAccessKey, secret)];
    let token = around.variable("AWS_SESSION_TOKEN");
    settings.extend(token.map(|token| (Key::Token, token)));
    Ok(Some(Found::new(
        settings,
        region,
        format!("{ID} and {SECRET}"),
    )))
}

fn of_token(around: &Surroundings, region: Option<String>) -> Option<Found> {
    let names = [
        (Key::WebIdentityTokenFile, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (Key::RoleArn, "AWS_ROLE_ARN"),
    ];
    let mut settings = Vec::new();
    for (key, name) in names {
        settings.push((key, around.variable(name)?));
    }
    let session = around.variable("AWS_ROLE_SESSION_NAME");
    settings.extend(session.map(|session| (Key::RoleSessionName, session)));
    let origin = "the web identity of AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN";
    Some(Found::new(settings, region, origin))
}

fn of_container(around: &Surroundings, region: Option<String>) -> Option<Found> {
    let relative = around.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let settings = match relative {
        Some(path) => vec![(Key::ContainerCredentialsRelativeUri, path)],
        None => {
            let address = around.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")?;
            let token = around.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")?;
            vec![
                (Key::ContainerCredentialsFullUri, address),
                (Key::ContainerAuthorizationTokenFile, token),
            ]
        }
    };
    Some(Found::new(settings, region, "the role of this container"))
}

/// A profile of `~/.aws`, or of the files that stand for it.
fn in_home(
    around: &Surroundings,
    name: &str,
    region: Option<String>,
) -> Result<Found, NoCredentials> {
    let below_home = |file: &str| around.home().map(|home| home.join(".aws").join(file));
    let named = |variable: &str, file: &str| {
        let path = around.variable(variable).map(PathBuf::from);
        path.or_else(|| below_home(file))
    };
    let Some(credentials) = named("AWS_SHARED_CREDENTIALS_FILE", "credentials") else {
        return Err(NoCredentials::Nowhere);
    };
    let config = named("AWS_CONFIG_FILE", "config");
    of_profile(&credentials, config.as_deref(), name, region)
}

/// A profile of a file of credentials; what it lacks may stand in a file of configuration beside it.
fn of_profile(
    credentials: &Path,
    config: Option<&Path>,
    name: &str,
    region: Option<String>,
) -> Result<Found, NoCredentials> {
    let mut values = BTreeMap::new();
    let mut is_known = false;
    if let Some(text) = config.and_then(|path| read(path).ok()) {
        let section = match name {
            "default" => "default".to_owned(),
            name => format!("profile {name}"),
        };
        is_known |= section_of(&text, &section, &mut values);
    }
    match read(credentials) {
        Ok(text) => is_known |= section_of(&text, name, &mut values),
        Err(error) if !is_known => return Err(error),
        Err(_) => {}
    }
    let (name, path) = (name.to_owned(), credentials.to_owned());
    if !is_known {
        return Err(NoCredentials::NoProfile { name, path });
    }
    let mut take = |key: &str| values.remove(key).filter(|value| !value.is_empty());
    let region = take("region").or(region);
    match (take("aws_access_key_id"), take("aws_secret_access_key")) {
        (Some(id), Some(secret)) => {
            let mut settings = vec![(Key::AccessKeyId, id), (Key::SecretAccessKey, secret)];
            settings.extend(take("aws_session_token").map(|token| (Key::Token, token)));
            let origin = format!("the profile `{name}` in {path:?}");
            Ok(Found::new(settings, region, origin))
        }
        _ => Err(NoCredentials::NoKeys { name, path }),
    }
}

/// The values of a section of a file, and whether there is one of that name.
fn section_of(text: &str, wanted: &str, values: &mut BTreeMap<String, String>) -> bool {
    let (mut is_there, mut is_in) = (false, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            is_in = name.trim() == wanted;
            is_there |= is_in;
        } else if let (true, Some((key, value))) = (is_in, line.split_once('=')) {
            values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    is_there
}

fn read(path: &Path) -> Result<String, NoCredentials> {
    let unreadable = |why: String| NoCredentials::Unreadable {
        path: path.to_owned(),
        why,
    };
    let size = fs::metadata(path)
        .map_err(|error| unreadable(error.to_string()))?
        .len();
    if size > MOST_BYTES {
        return Err(unreadable(format!("it has {size} bytes")));
    }
    fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))
}

/// A file that was made for this program is to be read by its owner alone.
pub(crate) fn must_be_private(path: &Path) -> Result<(), NoCredentials> {
    match fs::metadata(path) {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            Err(NoCredentials::Open(path.to_owned()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(NoCredentials::Unreadable {
            path: path.to_owned(),
            why: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Provider;

    fn place(options: &str) -> Place {
        let location = format!("s3://b{options}").parse().unwrap();
        Place::read(Provider::S3, &location).unwrap()
    }

    fn around(home: &Path, variables: &'static [(&str, &str)]) -> Surroundings {
        Surroundings::of(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .at_home(Some(home.to_owned()))
    }

    fn write(home: &Path, file: &str, text: &str) {
        fs::create_dir_all(home.join(".aws")).unwrap();
        fs::write(home.join(".aws").join(file), text).unwrap();
    }

    fn id_of(found: &Found) -> &str {
        &found.settings[0].1
    }

    #[test]
    fn what_is_named_comes_before_what_is_found() {
        let home = tempfile::tempdir().unwrap();
        let text = "[default]\naws_access_key_id = D\naws_secret_access_key=s\n# [off]\n[off]\naws_access_key_id=O\n\
                    aws_secret_access_key = o=o\n";
        write(home.path(), "credentials", text);
        write(home.path(), "config", "[profile off]\nregion = eu-west-3\n");
        let set: &[_] = &[("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "e")];
        let found = find(&place("?profile=off"), &around(home.path(), set)).unwrap();
        assert_eq!(
            (id_of(&found), found.region.as_deref()),
            ("O", Some("eu-west-3"))
        );
        assert_eq!(found.settings[1].1, "o=o");
        assert_eq!(
            id_of(&find(&place(""), &around(home.path(), set)).unwrap()),
            "E"
        );
        assert_eq!(
            id_of(&find(&place(""), &around(home.path(), &[])).unwrap()),
            "D"
        );
        let chosen = around(home.path(), &[("AWS_PROFILE", "off")]);
        assert_eq!(id_of(&find(&place(""), &chosen).unwrap()), "O");
    }

    #[test]
    fn what_is_lacking_is_named_with_its_remedy() {
        let home = tempfile::tempdir().unwrap();
        let told = |options: &str, variables| {
            let found = find(&place(options), &around(home.path(), variables));
            found.err().unwrap().to_string()
        };
        assert!(told("", &[]).contains("credentials=instance"));
        let half: &[_] = &[("AWS_ACCESS_KEY_ID", "E")];
        assert!(told("", half).contains("AWS_SECRET_ACCESS_KEY is not"));
        write(home.path(), "config", "[profile sso]\nsso_session = x\n");
        assert!(told("?profile=sso", &[]).contains("export-credentials"));
        write(home.path(), "credentials", "[a]\naws_access_key_id = A\n");
        assert!(told("?profile=b", &[]).contains("no profile `b`"));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let home = tempfile::tempdir().unwrap();
        write(
            home.path(),
            "mine",
            "[default]\naws_access_key_id=A\naws_secret_access_key=s\n",
        );
        let path = home.path().join(".aws/mine");
        let place = place(&format!("?credentials={}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let told = find(&place, &Surroundings::none()).err().unwrap();
        assert!(told.to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(id_of(&find(&place, &Surroundings::none()).unwrap()), "A");
    }
}
