//! The client of a place, made with the first call: that reads files of credentials, and making a sink must not.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use backup_core::OpContext;
use jiff::Timestamp;
use object_store::aws::{AmazonS3Builder, AwsCredentialProvider, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, HeaderMap, HeaderValue, ObjectStore, RetryConfig,
};
use tokio::sync::Mutex;

use crate::credentials::{self, NoCredentials};
use crate::lock;
use crate::place::{Place, Provider, Source};
use crate::sink::MAX_PUT_BYTES;
use crate::surroundings::Surroundings;
use crate::trouble::{Names, Trouble};
use crate::warm::Signer;
use crate::wire::Wire;

/// How long a request is tried again altogether.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A client that is ready.
pub(crate) struct Store {
    pub(crate) client: Arc<dyn ObjectStore>,
    /// The same, where pages of listings can be asked for one by one, from any key on.
    pub(crate) pages: Option<Arc<dyn PaginatedListStore>>,
    pub(crate) names: Names,
    pub(crate) wire: Wire,
    /// For what the client does not know; S3 only.
    pub(crate) signer: Option<Signer>,
    locking: Option<Locking>,
}

/// What makes clients whose objects are locked: the date stands in the settings of a client.
struct Locking {
    builder: AmazonS3Builder,
    options: ClientOptions,
    lock: Duration,
    now: Mutex<Option<(Timestamp, Arc<dyn ObjectStore>)>>,
}

/// Lets further clients share the connections of a first one.
#[derive(Debug)]
struct Shared(HttpClient);

impl HttpConnector for Shared {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

fn retry(tries: usize) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(15),
            base: 2.0,
        },
        max_retries: tries,
        retry_timeout: PATIENCE,
    }
}

/// Time is kept by the [wire](crate::wire), which knows how much is to be sent.
fn options(place: &Place) -> Result<ClientOptions, Trouble> {
    let mut options = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(10).min(place.timeout))
        .with_allow_http(
            place
                .endpoint
                .as_ref()
                .is_some_and(|endpoint| endpoint.is_plain()),
        );
    if let Some(path) = &place.ca {
        let unusable = |why: String| NoCredentials::Certificates {
            path: path.clone(),
            why,
        };
        let pem = fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let found = Certificate::from_pem_bundle(&pem);
        let found = found.map_err(|error| unusable(error.to_string()))?;
        if found.is_empty() {
            return Err(unusable("there is none in it".to_owned()).into());
        }
        for certificate in found {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn wire(place: &Place, authority: String) -> Wire {
    Wire::new(authority, place.connections, place.timeout, MAX_PUT_BYTES)
}

/// Host and port of an address.
fn authority_of(address: &str) -> String {
    let (_, rest) = address.split_once("://").unwrap_or_default();
    rest.split('/').next().unwrap_or_default().to_owned()
}

fn scheme_of(address: &str) -> &str {
    address.split("://").next().unwrap_or("https")
}

fn unbuilt(error: &object_store::Error) -> Trouble {
    Trouble::Other(format!("the client cannot be made: {error}"))
}

impl Store {
    /// Makes the client of a place.
    pub(crate) fn open(
        place: &Place,
        around: &Surroundings,
        tries: usize,
    ) -> Result<Self, Trouble> {
        match place.provider {
            Provider::S3 => Self::s3(place, around, tries),
            Provider::Gcs => Self::gcs(place, around, tries),
            Provider::Azure => Self::azure(place, around, tries),
        }
    }

    fn s3(place: &Place, around: &Surroundings, tries: usize) -> Result<Self, Trouble> {
        let found = credentials::find(place, around)?;
        let region = place.region.clone().or(found.region);
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let options = options(place)?;
        let amazon = || format!("s3.{region}.amazonaws.com");
        let at = place
            .endpoint
            .as_ref()
            .map(|endpoint| match place.virtual_host {
                true => endpoint.of_bucket(&place.bucket),
                false => endpoint.clone(),
            });
        let authority = match (&at, place.virtual_host) {
            (Some(at), _) => at.authority().to_owned(),
            (None, true) => format!("{}.{}", place.bucket, amazon()),
            (None, false) => amazon(),
        };
        let wire = wire(place, authority.clone());
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&place.bucket)
            .with_region(&region)
            .with_retry(retry(tries))
            .with_client_options(options.clone())
            .with_http_connector(wire.clone())
            .with_virtual_hosted_style_request(place.virtual_host)
            // Single deletions are a part of every server, those of many at once are not.
            .with_disable_bulk_delete(true);
        if place.checksum {
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
        if let Some(at) = &at {
            builder = builder.with_endpoint(at.to_string());
        }
        let server = match &place.endpoint {
            Some(endpoint) => endpoint.to_string(),
            None => format!("https://{}", amazon()),
        };
        for (key, value) in found.settings {
            builder = builder.with_config(key, value);
        }
        let client = builder.clone().build().map_err(|error| unbuilt(&error))?;
        let signer = Signer {
            http: wire.connect(&options).map_err(|error| unbuilt(&error))?,
            credentials: client.credentials().clone(),
            bucket: match place.virtual_host {
                true => format!("{}://{authority}", scheme_of(&server)),
                false => format!("{server}/{}", place.bucket),
            },
            region,
            tries,
        };
        let locking = match place.lock {
            Some(lock) => {
                let provider: AwsCredentialProvider = client.credentials().clone();
                let http = wire.connect(&options).map_err(|error| unbuilt(&error))?;
                let builder = builder
                    .with_credentials(provider)
                    .with_http_connector(Shared(http));
                Some(Locking {
                    builder,
                    options,
                    lock,
                    now: Mutex::default(),
                })
            }
            None => None,
        };
        let client = Arc::new(client);
        Ok(Self {
            pages: Some(client.clone()),
            client,
            names: Names::of(place, &server, &found.origin),
            wire,
            signer: Some(signer),
            locking,
        })
    }

    fn gcs(place: &Place, around: &Surroundings, tries: usize) -> Result<Self, Trouble> {
        let server = match &place.endpoint {
            Some(endpoint) => endpoint.to_string(),
            None => "https://storage.googleapis.com".to_owned(),
        };
        let wire = wire(place, authority_of(&server));
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&place.bucket)
            .with_retry(retry(tries))
            .with_client_options(options(place)?)
            .with_http_connector(wire.clone());
        let mut origin = "the service of this machine".to_owned();
        match &place.credentials {
            Some(Source::Instance) => {}
            Some(Source::File(path)) => {
                credentials::must_be_private(path)?;
                origin = format!("{path:?}");
                builder = builder.with_application_credentials(path.to_string_lossy());
            }
            None => {
                let names = [
                    ("GOOGLE_SERVICE_ACCOUNT", GoogleConfigKey::ServiceAccount),
                    (
                        "GOOGLE_SERVICE_ACCOUNT_KEY",
                        GoogleConfigKey::ServiceAccountKey,
                    ),
                    (
                        "GOOGLE_APPLICATION_CREDENTIALS",
                        GoogleConfigKey::ApplicationCredentials,
                    ),
                ];
                let set = names
                    .into_iter()
                    .find_map(|(name, key)| Some((name, key, around.variable(name)?)));
                if let Some((name, key, value)) = set {
                    origin = name.to_owned();
                    builder = builder.with_config(key, value);
                }
            }
        }
        if place.endpoint.is_some() {
            builder = builder.with_base_url(&server);
        }
        let client = builder.build().map_err(|error| unbuilt(&error))?;
        let client = Arc::new(client);
        Ok(Self {
            pages: Some(client.clone()),
            client,
            names: Names::of(place, &server, &origin),
            wire,
            signer: None,
            locking: None,
        })
    }

    fn azure(place: &Place, around: &Surroundings, tries: usize) -> Result<Self, Trouble> {
        const SECRETS: [&str; 9] = [
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_ACCESS_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_CLIENT_ID",
            "AZURE_STORAGE_CLIENT_SECRET",
            "AZURE_STORAGE_TENANT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_TENANT_ID",
            "AZURE_FEDERATED_TOKEN_FILE",
        ];
        let account = place.account.clone().unwrap_or_default();
        let server = match &place.endpoint {
            // Servers for trials have the account in the path.
            Some(endpoint) if endpoint.is_this_machine() => format!("{endpoint}/{account}"),
            Some(endpoint) => endpoint.to_string(),
            None => format!("https://{account}.blob.core.windows.net"),
        };
        let wire = wire(place, authority_of(&server));
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(&account)
            .with_container_name(&place.bucket)
            .with_retry(retry(tries))
            .with_client_options(options(place)?)
            .with_http_connector(wire.clone());
        let mut origins = Vec::new();
        if place.credentials.is_none() {
            for name in SECRETS {
                let key = name.to_ascii_lowercase().parse::<AzureConfigKey>();
                if let (Some(value), Ok(key)) = (around.variable(name), key) {
                    builder = builder.with_config(key, value);
                    origins.push(name);
                }
            }
        }
        if place.endpoint.is_some() {
            builder = builder.with_endpoint(server.clone());
        }
        let origin = match origins.is_empty() {
            true => "the identity of this machine".to_owned(),
            false => origins.join(", "),
        };
        let client = builder.build().map_err(|error| unbuilt(&error))?;
        Ok(Self {
            client: Arc::new(client),
            // Tried against no server, and not all of them begin a listing at a key.
            pages: None,
            names: Names::of(place, &server, &origin),
            wire,
            signer: None,
            locking: None,
        })
    }

    /// The client that puts objects: where they are locked, one whose date is so far ahead.
    pub(crate) async fn putting(&self, cx: &OpContext) -> Result<Arc<dyn ObjectStore>, Trouble> {
        let Some(locking) = &self.locking else {
            return Ok(self.client.clone());
        };
        let now = cx.clock.now();
        let mut current = locking.now.lock().await;
        if let Some((until, client)) = &*current
            && now < *until
        {
            return Ok(client.clone());
        }
        let until = lock::end(now, lock::STEP);
        let client: Arc<dyn ObjectStore> = Arc::new(locking.client(until)?);
        *current = Some((until, client.clone()));
        Ok(client)
    }
}

impl Locking {
    /// A client whose objects are locked so long from `from` on.
    fn client(&self, from: Timestamp) -> Result<object_store::aws::AmazonS3, Trouble> {
        let until = lock::end(from, self.lock);
        let date = HeaderValue::from_str(&lock::date(until))
            .map_err(|_| Trouble::Other(format!("no date of a lock can be told: {until}")))?;
        let mut headers = HeaderMap::new();
        // Without a word on the sum servers refuse to lock.
        headers.insert(
            "x-amz-sdk-checksum-algorithm",
            HeaderValue::from_static("SHA256"),
        );
        headers.insert(
            "x-amz-object-lock-mode",
            HeaderValue::from_static(lock::MODE),
        );
        headers.insert("x-amz-object-lock-retain-until-date", date);
        let options = self.options.clone().with_default_headers(headers);
        let builder = self.builder.clone().with_client_options(options);
        builder.build().map_err(|error| unbuilt(&error))
    }
}
