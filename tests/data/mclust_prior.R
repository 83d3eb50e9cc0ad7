# mclust's M-step and EM with its default prior, for the four covariance types that are scikit-learn's, on iris.csv.
# Rscript mclust_prior.R, in this folder; writes prior_mclust.csv
library(mclust)
X <- as.matrix(read.csv("iris.csv"))
dimnames(X) <- NULL
n <- nrow(X)
# each row belongs to the third of the file that it lies in by 0.9
third <- rep(1:3, each = n / 3)
z <- matrix(0.05, n, 3)
z[cbind(1:n, third)] <- 0.9
number <- function(x) formatC(x, digits = 15, format = "g")
lines <- "model,step,name,component,row,column,value"
add <- function(model, step, name, values) {
  for (k in seq_len(dim(values)[3]))
    for (i in seq_len(dim(values)[1]))
      for (j in seq_len(dim(values)[2]))
        lines <<- c(lines, paste(model, step, name, k - 1, i - 1, j - 1, number(values[i, j, k]), sep = ","))
}
for (model in c("VVV", "EEE", "VVI", "VII")) {
  fits <- list(
    mstep = mstep(data = X, modelName = model, z = z, prior = priorControl()),
    me = me(data = X, modelName = model, z = z, prior = priorControl(), control = emControl(tol = 1e-14, itmax = 5000))
  )
  for (step in names(fits)) {
    fit <- fits[[step]]$parameters
    add(model, step, "weights", array(fit$pro, c(1, 1, 3)))
    add(model, step, "means", array(fit$mean, c(1, 4, 3)))
    add(model, step, "covariances", fit$variance$sigma)
  }
  add(model, "me", "log_likelihood", array(fits$me$loglik, c(1, 1, 1)))
  add(model, "me", "bic", array(bic(model, fits$me$loglik, n, 4, 3), c(1, 1, 1)))
}
writeLines(lines, "prior_mclust.csv")
