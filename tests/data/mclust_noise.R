# Writes noise.csv and noise_mclust.csv: mclust's EM with noise from the start that noise.csv gives.
# Rscript tests/data/mclust_noise.R, in the repository
suppressMessages(library(mclust))
set.seed(1)
means <- rbind(c(0, 0), c(6, 1), c(2, 7))
component <- sample(0:3, 300, replace = TRUE, prob = c(0.05, 0.5, 0.3, 0.15))
x <- t(sapply(component, function(k) {
  if (k == 0) runif(2, -6, 12) else means[k, ] + c(rnorm(1), rnorm(1) * 0.7) + c(0.4, 0) * (k == 2) * rnorm(1)
}))
x <- round(x, 6)
# a start that is a little wrong: rows of the groups by the nearest mean, noise where no mean is near
distance <- sqrt(sapply(1:3, function(k) rowSums((x - rep(means[k, ], each = 300))^2)))
start <- ifelse(apply(distance, 1, min) > 2.2, 0, apply(distance, 1, which.min))
write.csv(data.frame(x0 = x[, 1], x1 = x[, 2], component = component, start = start),
          "tests/data/noise.csv", row.names = FALSE, quote = FALSE)

lines <- NULL
for (model in c("EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV")) {
  z <- cbind(unmap(ifelse(start == 0, 4, start)))
  fit <- me(x, modelName = model, z = z, Vinv = hypvol(x, reciprocal = TRUE),
            control = emControl(tol = c(1e-14, 1e-12), itmax = c(100000, 100000)))
  p <- fit$parameters
  for (k in 1:4) lines <- rbind(lines, data.frame(
    model = model, component = ifelse(k == 4, -1, k - 1), log_volume = log(hypvol(x)), log_likelihood = fit$loglik,
    n_parameters = nMclustParams(model, 2, 3, noise = TRUE), log_top = sum(log(apply(fit$z, 1, max))), weight = p$pro[k],
    mean0 = if (k < 4) p$mean[1, k] else NA, mean1 = if (k < 4) p$mean[2, k] else NA,
    c00 = if (k < 4) p$variance$sigma[1, 1, k] else NA, c01 = if (k < 4) p$variance$sigma[1, 2, k] else NA,
    c11 = if (k < 4) p$variance$sigma[2, 2, k] else NA))
}
lines[-1] <- lapply(lines[-1], function(column) signif(column, 12))
write.csv(lines, "tests/data/noise_mclust.csv", row.names = FALSE, quote = FALSE)
