//! The handle of one experiment's network on this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::Mutex;

use crate::{
    conn::Conn,
    counters::{self, PortCounters, RouterState},
    error::NetError,
    naming, netns,
    paths::{self, NetConfig, Paths},
    reconcile::Reconcile,
    report::{NetReport, Progress},
    spec::NetworkSpec,
    state::Place,
    sysctl, tap, underlay, worker,
};

/// The network of one experiment on this host. It keeps nothing in memory but names: what is there is in the kernel,
/// so a new process that opens the same experiment finds everything.
///
/// Operations that change the network wait for one another; those that read do not wait.
#[derive(Clone)]
pub struct Network {
    paths: Arc<Paths>,
    changing: Arc<Mutex<()>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Network").field(&self.paths.experiment()).finish()
    }
}

impl Network {
    /// A handle of the experiment's network, which need not exist. Makes nothing.
    ///
    /// # Errors
    /// When the configuration's prefix is not 1 to 16 letters and digits.
    pub fn open(config: NetConfig, experiment: &str) -> Result<Self, NetError> {
        Ok(Self { paths: Arc::new(Paths::new(config, experiment)?), changing: Arc::default() })
    }

    /// The experiments that have namespaces here, by full name; of a half-made one the name that its file has.
    ///
    /// # Errors
    /// When the folder or a namespace cannot be read.
    pub async fn list(config: &NetConfig) -> Result<Vec<String>, NetError> {
        let config = config.clone();
        worker::on_thread(async move |_| {
            let mut names: BTreeMap<String, String> = BTreeMap::new();
            for file in paths::files(&config)? {
                let full = match file.router {
                    None if netns::is_live(&file.path)? => {
                        netns::enter(&file.path)?;
                        counters::name_of_namespace(&Conn::open(&file.experiment)?).await?
                    }
                    _ => None,
                };
                let name = names.entry(file.experiment.clone()).or_insert(file.experiment);
                if let Some(full) = full {
                    *name = full;
                }
            }
            Ok(names.into_values().collect())
        })
        .await
    }

    /// The file of the namespace that holds the experiment's bridges and taps.
    pub fn switch_namespace(&self) -> PathBuf {
        self.paths.namespace(&Place::Switch)
    }

    /// The file of a router's namespace.
    pub fn router_namespace(&self, router: &str) -> PathBuf {
        self.paths.namespace(&Place::Router(router.to_owned()))
    }

    /// Makes the network what `spec` says: makes what lacks, mends what differs, removes what is not wanted, and leaves
    /// the rest alone. It can be repeated at any time, also after a crash in its middle. When the future is dropped the
    /// work ends before its next batch, and the next reconcile goes on from there. `progress` is called on another
    /// thread.
    ///
    /// # Errors
    /// [`NetError::Spec`] when the network cannot exist (nothing was changed); otherwise the first request that failed,
    /// with what was done before it left in place.
    pub async fn reconcile(
        &self,
        spec: &NetworkSpec,
        progress: impl Fn(Progress) + Send + 'static,
    ) -> Result<NetReport, NetError> {
        self.check(spec)?;
        let changing = Arc::clone(&self.changing).lock_owned().await;
        let (paths, spec) = (Arc::clone(&self.paths), spec.clone());
        worker::on_thread(async move |cancel| {
            // Held by the thread: it may outlive a caller that gave up.
            let _changing = changing;
            underlay::check(&paths, &spec, cancel).await?;
            Reconcile::new(&paths, &spec, cancel, &progress)?.run().await
        })
        .await
    }

    /// Says what [`Self::reconcile`] would do, and does nothing.
    ///
    /// # Errors
    /// As [`Self::reconcile`].
    pub async fn plan(&self, spec: &NetworkSpec) -> Result<NetReport, NetError> {
        self.check(spec)?;
        let (paths, spec) = (Arc::clone(&self.paths), spec.clone());
        worker::on_thread(async move |cancel| {
            underlay::check(&paths, &spec, cancel).await?;
            Reconcile::new(&paths, &spec, cancel, &|_| ())?.plan().await
        })
        .await
    }

    fn check(&self, spec: &NetworkSpec) -> Result<(), NetError> {
        let (opened, wanted) = (self.paths.experiment(), &spec.experiment);
        if opened != wanted {
            return Err(NetError::OtherExperiment { opened: opened.to_owned(), wanted: wanted.clone() });
        }
        let problems = spec.check();
        if problems.is_empty() {
            return Ok(());
        }
        Err(NetError::Spec { experiment: wanted.clone(), problems })
    }

    /// A descriptor of a VM's port: `vec0:transport=fd,fd=N,vec=0` for UML, `-netdev tap,fd=N` for QEMU. Reading gives
    /// the frames that go to the guest, writing takes those that it sends, one frame a call. The port has a carrier
    /// for as long as the descriptor is open. It is closed on exec and does not block.
    ///
    /// # Errors
    /// [`NetError::NoSuchPort`] when the port was not made, [`NetError::PortInUse`] when another process has it.
    pub async fn open_tap(&self, port_id: &str) -> Result<OwnedFd, NetError> {
        let (paths, port) = (Arc::clone(&self.paths), port_id.to_owned());
        worker::on_thread(async move |_| {
            let experiment = paths.experiment().to_owned();
            let namespace = paths.namespace(&Place::Switch);
            if !netns::is_live(&namespace)? {
                return Err(NetError::NoSuchPort { experiment, port });
            }
            netns::enter(&namespace)?;
            match tap::attach(&naming::tap_name(&port)) {
                Ok(Some(fd)) => Ok(fd),
                Ok(None) => Err(NetError::NoSuchPort { experiment, port }),
                Err(error) if tap::is_busy(&error) => Err(NetError::PortInUse { experiment, port }),
                Err(source) => Err(NetError::Kernel { experiment, doing: format!("open port {port}"), source }),
            }
        })
        .await
    }

    /// The traffic of every port and router interface. Empty when the network does not exist.
    ///
    /// # Errors
    /// When a namespace cannot be read.
    pub async fn counters(&self) -> Result<Vec<PortCounters>, NetError> {
        self.visit(async |conn, place| counters::ports(conn, place).await).await.map(|all| all.concat())
    }

    /// The state of every router that has a namespace.
    ///
    /// # Errors
    /// When a namespace cannot be read.
    pub async fn routers(&self) -> Result<Vec<RouterState>, NetError> {
        let states = self
            .visit(async |conn, place| match place {
                Place::Switch => Ok(None),
                Place::Router(name) => {
                    let (name, forwarding) = (name.clone(), sysctl::forwards()?);
                    Ok(Some(RouterState { name, forwarding, interfaces: counters::interfaces(conn).await? }))
                }
            })
            .await?;
        Ok(states.into_iter().flatten().collect())
    }

    /// Looks into each of the experiment's namespaces in turn, from inside.
    async fn visit<T: Send + 'static>(
        &self,
        look: impl AsyncFn(&Conn, &Place) -> Result<T, NetError> + Send + 'static,
    ) -> Result<Vec<T>, NetError> {
        let paths = Arc::clone(&self.paths);
        worker::on_thread(async move |_| {
            let switch = (Place::Switch, paths.namespace(&Place::Switch));
            let routers = paths.routers()?.into_iter().map(|(name, path)| (Place::Router(name), path));
            let mut seen = Vec::new();
            for (place, path) in [switch].into_iter().chain(routers) {
                if !netns::is_live(&path)? {
                    continue;
                }
                netns::enter(&path)?;
                let conn = Conn::open(paths.experiment())?;
                // The file may have a shortened name; the namespace knows the full one.
                let place = match place {
                    Place::Switch => Place::Switch,
                    Place::Router(short) => Place::Router(counters::name_of_namespace(&conn).await?.unwrap_or(short)),
                };
                seen.push(look(&conn, &place).await?);
            }
            Ok(seen)
        })
        .await
    }

    /// Removes everything: namespaces with all that is in them, mounts and files. Goes on past errors and returns them
    /// all. Stop the VMs first: a process that still holds a port keeps the nameless namespace until it ends.
    pub async fn remove(&self) -> Vec<NetError> {
        let changing = Arc::clone(&self.changing).lock_owned().await;
        let paths = Arc::clone(&self.paths);
        let removed = worker::on_thread(async move |cancel| {
            let _changing = changing;
            let mut files: BTreeSet<PathBuf> = BTreeSet::from([paths.namespace(&Place::Switch)]);
            let mut errors = Vec::new();
            match paths.routers() {
                Ok(routers) => files.extend(routers.into_iter().map(|(_, path)| path)),
                Err(error) => errors.push(error),
            }
            for file in &files {
                // They go first, and at once: a namespace ends some time after its name.
                let tunnels = match netns::is_live(file) {
                    Ok(true) => underlay::remove_tunnels(file, paths.experiment(), cancel).await,
                    Ok(false) => Ok(()),
                    Err(error) => Err(error),
                };
                errors.extend(tunnels.err());
                errors.extend(netns::remove(file).err());
            }
            Ok(errors)
        })
        .await;
        removed.unwrap_or_else(|error| vec![error])
    }
}
