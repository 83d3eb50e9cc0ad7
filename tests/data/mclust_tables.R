# Writes the tables of this folder that mclust makes of its fourteen models: Rscript mclust_tables.R, in this folder.
# mclust 6.0.0 (R 4): the data sets are those of R's package datasets.

suppressMessages(library(mclust))
mclust.options(warn = FALSE)

models <- c("EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV")
sets <- list(
  iris = iris[, 1:4], old_faithful = faithful, quakes = quakes[, c("lat", "long", "depth")],
  swiss = swiss, usarrests = USArrests
)
for (name in c("quakes", "swiss", "usarrests")) write.csv(sets[[name]], paste0(name, ".csv"), row.names = FALSE)

# numbers of parameters, for D = 1 to 6 and K = 1 to 9
counts <- expand.grid(model = models, n_features = 1:6, n_components = 1:9, stringsAsFactors = FALSE)
counts$n_parameters <- mapply(nMclustParams, counts$model, counts$n_features, counts$n_components)
write.csv(counts, gzfile("mclust_n_parameters.csv.gz"), row.names = FALSE)

digits <- function(x) paste(sprintf("%.17g", x), collapse = " ")
lines <- function(source, data, model, loglik, parameters) {
  variance <- parameters$variance
  each <- if (is.null(variance$sigma)) array(variance$Sigma, c(variance$d, variance$d, variance$G)) else variance$sigma
  sapply(seq_along(parameters$pro), function(k) paste(
    source, data, model, length(parameters$pro), digits(loglik), digits(parameters$pro[k]),
    digits(parameters$mean[, k]), digits(each[, , k][lower.tri(each[, , k], diag = TRUE)]), sep = ","
  ))
}

found <- "source,data,model,n_components,log_likelihood,weight,mean,covariance"
for (data in names(sets)) {
  X <- as.matrix(sets[[data]])
  # an M-step from the same responsibilities everywhere: of row i (from 0) and component k, 1 + (i (k + 1) mod 7), scaled
  n <- nrow(X)
  z <- sapply(1:3, function(k) 1 + ((0:(n - 1)) * (k + 1)) %% 7)
  z <- z / rowSums(z)
  tight <- emControl(tol = c(1e-12, 1e-14), itmax = c(10000, 100000))
  for (model in models) {
    step <- mstep(data = X, modelName = model, z = z, control = tight)
    found <- c(found, lines("mstep", data, model, NA, step$parameters))
  }
  table <- mclustBIC(X, G = 1:9, modelNames = models, verbose = FALSE)
  if (data %in% c("quakes", "swiss", "usarrests")) {
    write.csv(unclass(table)[, models], paste0(data, "_mclust_bic.csv"))
  }
  # what mclust ends with, for fits that begin there
  for (model in models) for (G in c(2, 3, 5)) {
    if (is.na(table[as.character(G), model])) next
    fit <- summary(table, data = X, G = G, modelNames = model)
    found <- c(found, lines("fit", data, model, fit$loglik, fit$parameters))
  }
}
writeLines(found, gzfile("mclust_models.csv.gz"))
